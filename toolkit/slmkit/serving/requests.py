"""Requests of OpenAI's interface: what can be done, and what is refused by name.

Source: OpenAI's API reference, "Create chat completion" and "Create completion".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from slmkit.errors import UsageError

MOST_MESSAGES = 1000
MOST_STOPS = 16
LARGEST = 1 << 16  # tokens of an answer; the context is less
REFUSED = {  # would change the answer and cannot be done; each with the value that asks nothing
    "n": 1,
    "logprobs": False,
    "top_logprobs": None,
    "logit_bias": None,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "audio": None,
    "functions": None,
    "echo": False,
    "suffix": None,
    "best_of": 1,
}


def _text(content: Any) -> Any:
    """A list of parts as one text, if all of them are text."""
    if not isinstance(content, list):
        return content
    kinds = [part.get("type") if isinstance(part, dict) else None for part in content]
    if any(kind != "text" for kind in kinds):
        raise ValueError("a message's content must be text")
    return "".join(str(part.get("text", "")) for part in content)


def _several(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop or []


class Said(BaseModel, extra="allow"):
    """A message; what else it has, such as tool calls, is for the template."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | None, BeforeValidator(_text)] = None


class StreamOptions(BaseModel):
    """Of a streamed answer."""

    include_usage: bool = False


class Asked(BaseModel, extra="allow"):
    """The fields of both kinds of requests. Others are ignored if they change nothing, else
    refused."""

    model: str
    max_tokens: int | None = Field(None, ge=1, le=LARGEST)
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=0)
    stop: Annotated[list[str], BeforeValidator(_several), Field(max_length=MOST_STOPS)] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    def arguments(self) -> dict[str, Any]:
        """Those of ``Session.stream``. Raises UsageError for what cannot be done."""
        for name, nothing in REFUSED.items():
            value = (self.model_extra or {}).get(name)
            if value is not None and value != nothing:
                raise UsageError(f"{name} is not supported", "leave it out")
        return {
            "max_tokens": self.max_tokens or LARGEST,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed or 0,
            "stop": self.stop,
        }


class ChatRequest(Asked):
    """POST /v1/chat/completions."""

    messages: list[Said] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, le=LARGEST)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    response_format: dict[str, Any] | None = None

    def arguments(self) -> dict[str, Any]:
        """Those of ``Session.stream``. Raises UsageError for what cannot be done."""
        found = super().arguments()
        if self.max_completion_tokens:
            found["max_tokens"] = self.max_completion_tokens
        if self.tools and self.tool_choice != "none":
            found["tools"] = self.tools
        found["json_schema"] = _schema(self.response_format)
        return found

    def prompt(self) -> Sequence[Mapping[str, Any]]:
        """The messages, for the chat template."""
        said = [each.model_dump(exclude_unset=True) for each in self.messages]
        for each in said:  # the newer name of the same role, which templates do not know
            each["role"] = each["role"].replace("developer", "system")
        return said


class TextRequest(Asked):
    """POST /v1/completions: a text that goes on, without the chat template."""

    prompt: str = Field(min_length=1)


def _schema(form: dict[str, Any] | None) -> dict[str, Any] | None:
    """The JSON schema of a ``response_format``."""
    match form:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"type": "object"}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
    raise UsageError("response_format is of no known type", "text, json_object or json_schema")
