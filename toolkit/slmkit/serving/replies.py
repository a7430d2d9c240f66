"""Replies of OpenAI's interface, as JSON."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from slmkit.inference.answer import Answer


@dataclass(frozen=True)
class Reply:
    """The facts that all parts of one reply share."""

    model: str
    chat: bool  # or a text that goes on
    number: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The reply in one piece."""
        said = {"role": "assistant", "content": answer.text}
        content = {"message": said} if self.chat else {"text": answer.text}
        return {**self._choice(content, answer.finish), "usage": usage(answer)}

    def piece(self, text: str | None, finish: str | None = None) -> dict[str, Any]:
        """A piece of a streamed reply; ``text`` None for the last one."""
        delta = {} if text is None else {"role": "assistant", "content": text}
        return self._choice({"delta": delta} if self.chat else {"text": text or ""}, finish, True)

    def last(self, answer: Answer) -> dict[str, Any]:
        """The piece that tells what was used."""
        return {**self._facts(True), "choices": [], "usage": usage(answer)}

    def _choice(
        self, content: dict[str, Any], finish: str | None, streamed: bool = False
    ) -> dict[str, Any]:
        choice = {"index": 0, **content, "finish_reason": finish, "logprobs": None}
        return {**self._facts(streamed), "choices": [choice]}

    def _facts(self, streamed: bool) -> dict[str, Any]:
        kind = "chat.completion" if self.chat else "text_completion"
        return {
            "id": ("chatcmpl-" if self.chat else "cmpl-") + self.number,
            "object": kind + (".chunk" if streamed and self.chat else ""),
            "created": self.created,
            "model": self.model,
        }


def usage(answer: Answer) -> dict[str, Any]:
    """Tokens of the prompt, of them those held already, and of the answer."""
    facts = answer.statistics
    return {
        "prompt_tokens": facts.prompt_tokens,
        "completion_tokens": facts.answer_tokens,
        "total_tokens": facts.prompt_tokens + facts.answer_tokens,
        "prompt_tokens_details": {"cached_tokens": facts.reused_tokens},
    }


def refusal(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    """An error, as clients read it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
