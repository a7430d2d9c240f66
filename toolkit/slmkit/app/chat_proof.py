"""The chat form of a template, worked out from its renderings and proved against them.

Proved: the form writes the template's very text for conversations of one, three and five messages,
with and without a system message, whose contents have spaces at their ends and characters of many
scripts. A template that has no such form is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from slmkit.app.chat_form import (
    Assistant,
    ChatForm,
    Date,
    Message,
    NoChatForm,
    Part,
    System,
    Thinking,
)
from slmkit.checkpoint.tokenizer import BUILD_DAY, Tokenizer
from slmkit.errors import CheckpointError, RefusedError

MARKS = ("\ue000", "\ue001", "\ue002", "\ue003")  # private characters, which no template writes
WORD = "a"
OTHER_DAY = datetime(2031, 11, 23, 17, 42, 9)
# How templates write a date: in strftime's letters, and in those of Unicode's TR 35.
DATES = {
    "%d %b %Y": "dd MMM yyyy",
    "%d %B %Y": "dd MMMM yyyy",
    "%B %d, %Y": "MMMM dd, yyyy",
    "%Y-%m-%d": "yyyy-MM-dd",
}
SPACES = (" \n", "\u00a0 ")  # at the two ends of a content that a template may trim
THOUGHT = "<think>\nIt is late.\n</think>\n\n"
THINKING_END = "</think>"
NEWLINES = "\n\n\n"  # more of them than a template writes before a message
CONTENTS = (
    "Hello!",
    "  né \n\t",
    '{"a": [1, "ça"]} <b> & \\n {{ x }} {% y %}',
    "\u00a0日本語とemoji 🎉\u2003",
    f"{THOUGHT}It is ten o'clock.",
    "two\n\nparagraphs\r\n",
    "Привет, мир",
)
SYSTEMS = ("You answer in one word.", " Réponds\nbrièvement. ")


class Refused(Exception):
    """A template has no form: the sentence says why."""


def chat_form(tokenizer: Tokenizer) -> ChatForm | NoChatForm:
    """The proved form of a tokenizer's chat template, or why there is none."""
    start = start_ids(tokenizer)
    try:
        return _proved(tokenizer, start)
    except Refused as why:
        return NoChatForm(refused=str(why), start_ids=start)


def start_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that the tokenizer puts before a text. Raises RefusedError for ids elsewhere."""
    plain, whole = tokenizer.encode(WORD, special=False), tokenizer.encode(WORD)
    if whole[len(whole) - len(plain) :] != plain:
        raise RefusedError(
            "the tokenizer puts tokens behind a text, which the apps' tokenizers cannot",
            "take an artifact whose runtime tokenizes itself",
        )
    return tuple(whole[: len(whole) - len(plain)])


def conversations(system: bool) -> Iterator[list[Message]]:
    """Those that a form is proved on; ``system``: each once more with system messages."""
    for length in (1, 3, 5):
        for first in range(len(CONTENTS)):
            roles = ("user", "assistant") * length
            turns: list[Message] = [
                {"role": roles[at], "content": CONTENTS[(first + at) % len(CONTENTS)]}
                for at in range(length)
            ]
            yield turns
            if system:
                content = SYSTEMS[first % len(SYSTEMS)]
                yield [{"role": "system", "content": content}, *turns]


def _proved(tokenizer: Tokenizer, start: tuple[int, ...]) -> ChatForm:
    if tokenizer.template is None:
        raise Refused("the checkpoint has no chat template")
    template = _Template(tokenizer.on(BUILD_DAY))
    form = _form(template, start)
    date = _date(form, _form(_Template(tokenizer.on(OTHER_DAY)), start))
    form = form.model_copy(update={"date": date})
    if form.system is not None and _difference(template, form, system=True) is not None:
        # Some templates write it into the last question: such a message has no fixed place.
        form = form.model_copy(update={"system": None})
    different = _difference(template, form, system=False)
    if different is not None:
        raise Refused(
            "the chat template is no fixed text around each message: a conversation of "
            f"{len(different)} messages is rendered otherwise"
        )
    return form


def _difference(template: _Template, form: ChatForm, system: bool) -> list[Message] | None:
    """The first conversation that the form writes otherwise; None: it is proved."""
    for messages in conversations(system):
        if template(messages) != form.render(messages):
            return messages
    return None


class _Template:
    """Renderings of a template, cut at the contents of their messages."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.bos = tokenizer.special.get("bos_token", "")
        self.eos = tokenizer.special.get("eos_token", "")

    def __call__(self, messages: Sequence[Message], answer: bool = True) -> str:
        try:
            return self.tokenizer.chat(messages, answer)
        except CheckpointError as error:
            raise Refused(f"the chat template refuses a conversation: {error.message}") from None

    def cut(self, roles: Sequence[str], answer: bool = True) -> list[str]:
        """The texts around the contents, one more than there are roles. Raises Refused."""
        marks = MARKS[: len(roles)]
        messages = [
            {"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)
        ]
        pieces, rest = [], self(messages, answer)
        for mark in marks:
            piece, found, rest = rest.partition(mark)
            if not found or mark in rest:
                raise Refused("the chat template does not write every message once")
            pieces.append(piece)
        return [*pieces, rest]

    def closes(self, roles: Sequence[str]) -> str:
        """The text after the last message, with no answer to come and without the end of all;
        empty if that is refused."""
        try:
            return self.cut(roles, answer=False)[-1].removesuffix(self.eos)
        except Refused:
            return ""

    def keeps(self, role: str, content: str) -> bool:
        """Whether a message's content is written as it is."""
        return self.writes(role, content, content)

    def writes(self, role: str, content: str, text: str) -> bool:
        """Whether a conversation with such a message has the text."""
        messages = [{"role": each, "content": "-"} for each in ("user", "assistant", "user")]
        if role == "system":
            messages.insert(0, {"role": role, "content": content})
        else:
            messages[("user", "assistant").index(role)]["content"] = content
        return text in self(messages)


def _form(template: _Template, start: tuple[int, ...]) -> ChatForm:
    """The only form that there can be, not yet proved. Raises Refused."""
    head, tail = template.cut(["user"])
    _, asked, answered, _ = template.cut(["user", "assistant", "user"])
    closed = template.closes(["user"])
    fits = closed and asked.startswith(closed) and tail.startswith(closed)
    after_user = closed if fits else _shared_start(asked, tail)
    closed = template.closes(["user", "assistant"])
    fits = closed and answered.startswith(closed) and head.endswith(answered[len(closed) :])
    before_user = answered[len(closed) :] if fits else _shared_end(answered, head)
    after_assistant = answered[: len(answered) - len(before_user)]
    first = head[: len(head) - len(before_user)]
    begin = template.bos if first.startswith(template.bos) else ""
    begin = "" if before_user.startswith(begin) else begin  # SmolLM2's bos begins every message
    system = _system(template, begin, before_user)
    if system is None:
        begin = first
    return ChatForm(
        begin=begin,
        no_system=first.removeprefix(begin),
        system=system,
        user=Part(before=before_user, after=after_user, trim=_trims(template, "user")),
        assistant=Assistant(
            before=asked[len(after_user) :],
            after=after_assistant,
            trim=_trims(template, "assistant"),
            thinking=_thinking(template),
        ),
        answer=tail[len(after_user) :],
        date=None,
        start_ids=start,
    )


def _system(template: _Template, begin: str, before_user: str) -> System | None:
    """None: the template refuses system messages, or writes none."""
    try:
        head, between, _ = template.cut(["system", "user"])
        trim = _trims(template, "system")
    except Refused:
        return None
    if not head.startswith(begin):
        return None
    closes = bool(before_user) and between.endswith(before_user)
    after = between.removesuffix(before_user) if closes else between
    before = head.removeprefix(begin)
    return System(before=before, after=after, trim=trim, opens_user=not closes)


def _trims(template: _Template, role: str) -> bool:
    return not template.keeps(role, MARKS[0].join(SPACES))


def _thinking(template: _Template) -> Thinking | None:
    """How the thoughts of an earlier answer are left out; None: they are kept."""
    if template.keeps("assistant", f"{MARKS[0]}{THINKING_END}{MARKS[1]}"):
        return None
    answer = f"{NEWLINES}{MARKS[0]}"
    kept = template.writes("assistant", f"{THINKING_END}{answer}", answer)
    return Thinking(end=THINKING_END, strip="" if kept else "\n")


def _date(form: ChatForm, other: ChatForm) -> Date | None:
    """The date in the form of BUILD_DAY, where that of OTHER_DAY has another. Raises Refused."""
    if form == other:
        return None
    for letters, pattern in DATES.items():
        today, then = BUILD_DAY.strftime(letters), OTHER_DAY.strftime(letters)
        text = form.model_dump_json()
        if today in text and text.replace(today, then) == other.model_dump_json():
            return Date(text=today, pattern=pattern)
    raise Refused("the chat template writes the date or the time in a form that apps do not know")


def _shared_start(one: str, other: str) -> str:
    at = 0
    while at < min(len(one), len(other)) and one[at] == other[at]:
        at += 1
    return one[:at]


def _shared_end(one: str, other: str) -> str:
    return _shared_start(one[::-1], other[::-1])[::-1]
