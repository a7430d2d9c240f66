"""A chat template as fixed texts before and after each message, for apps that run no Jinja."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel

from slmkit.bundle.manifest import STRICT

Message = Mapping[str, str]  # "role" and "content"


class Part(BaseModel):
    """The texts before and after a message. ``trim``: white space at both ends of the message is
    left out, as Python's ``str.strip`` does it."""

    model_config = STRICT

    before: str
    after: str
    trim: bool = False

    def around(self, content: str, before: bool = True) -> str:
        """A message in its texts; ``before``: with the text before it."""
        return (self.before if before else "") + self._content(content) + self.after

    def _content(self, content: str) -> str:
        return content.strip() if self.trim else content


class System(Part):
    """A system message. ``opens_user``: it begins the first user's turn, whose own ``before`` is
    not written then."""

    opens_user: bool = False


class Thinking(BaseModel):
    """The thoughts that are left out of an earlier answer: all up to the last ``end``, if it is
    there, and the characters of ``strip`` that follow it."""

    model_config = STRICT

    end: str
    strip: str


class Assistant(Part):
    """An earlier answer."""

    thinking: Thinking | None = None

    def _content(self, content: str) -> str:
        if self.thinking and self.thinking.end in content:
            content = content.rsplit(self.thinking.end, 1)[1].lstrip(self.thinking.strip)
        return super()._content(content)


class Date(BaseModel):
    """A date in the form's texts, which an app replaces by today's.

    ``pattern``: in the letters of Unicode's TR 35, with English names, as Android's
    SimpleDateFormat and Apple's DateFormatter read it.
    """

    model_config = STRICT

    text: str
    pattern: str


class ChatForm(BaseModel):
    """The form: ``begin``, then the system message (``no_system`` in its place where there is
    none), then the messages, then ``answer``, which opens the answer.

    ``start_ids``: ids before a raw text. A chat's text is encoded without them.
    """

    model_config = STRICT

    format: Literal["slmkit-app-chat/1"] = "slmkit-app-chat/1"
    begin: str
    no_system: str
    system: System | None  # None: the template takes no system message
    user: Part
    assistant: Assistant
    answer: str
    date: Date | None
    start_ids: tuple[int, ...]

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt's text of a conversation, with the opening of the answer."""
        rest, opened = list(messages), False
        if self.system is not None and rest and rest[0]["role"] == "system":
            start = self.system.around(rest.pop(0)["content"])
            opened = self.system.opens_user
        else:
            start = self.no_system
        turns = []
        for at, message in enumerate(rest):
            part = self.user if message["role"] == "user" else self.assistant
            turns.append(part.around(message["content"], before=at > 0 or not opened))
        return self.begin + start + "".join(turns) + self.answer


class NoChatForm(BaseModel):
    """In place of a form: why there is none. The app then takes raw prompts."""

    model_config = STRICT

    format: Literal["slmkit-app-chat/1"] = "slmkit-app-chat/1"
    refused: str
    start_ids: tuple[int, ...]
