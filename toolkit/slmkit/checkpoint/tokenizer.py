"""The tokenizer of a checkpoint: encode, decode, special tokens, sandboxed chat template."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from slmkit.checkpoint.generation import EXAMPLES, read_generation, stop_notices, turn_end
from slmkit.checkpoint.isolated_tokenizer import IsolatedTokenizer, check_unicode, rendered
from slmkit.checkpoint.named_templates import read_templates
from slmkit.checkpoint.vocabulary import beyond, check_vocabulary, padding, refuse_beyond
from slmkit.errors import CheckpointError
from slmkit.models.config import read_json

Message = Mapping[str, Any]
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "tokenizer.model",
)
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
BUILD_DAY = datetime(2026, 1, 1)  # the date in prompts of a build: any day's build is the same


class Tokenizer:
    """tokenizer.json in the ``tokenizers`` library, with the settings of the files beside it.

    ``chat_template``: the name of one of several templates; the default one, if there is one, else.
    ``vocabulary``: rows of the model's embedding, if a model is known; ids beyond them are refused.
    Raises CheckpointError for a missing or unreadable file.
    """

    def __init__(
        self, folder: Path, chat_template: str | None = None, vocabulary: int | None = None
    ) -> None:
        if not (folder / "tokenizer.json").exists():
            raise CheckpointError(
                f"{folder} has no tokenizer.json",
                "fetch it with the weights; a sentencepiece tokenizer.model is turned into one by "
                "transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
            )
        self.library = IsolatedTokenizer(folder / "tokenizer.json")
        self.settings = _optional(folder / "tokenizer_config.json")
        self.special = _special_tokens(self.settings, _optional(folder / "special_tokens_map.json"))
        self.templates = read_templates(folder, self.settings)
        self.template = self.templates.choose(chat_template)
        self.day: datetime | None = None  # what strftime_now tells; None: the clock
        self.vocabulary = vocabulary
        self.author = read_generation(folder)

    @property
    def size(self) -> int:
        """Number of token ids, added tokens included."""
        return self.library.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of ``text``; ``special``: with those that the tokenizer adds (often bos)."""
        ids: list[int] = self.library.encode(text, add_special_tokens=special).ids
        self.check(ids)
        return ids

    def check(self, ids: Sequence[int]) -> None:
        """Raise SlmkitError for an id that the model has no embedding for."""
        if self.vocabulary is not None and ids and not 0 <= min(ids) <= max(ids) < self.vocabulary:
            refuse_beyond(ids, beyond(self.library, self.vocabulary), self.vocabulary)

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """Text of ``ids``; ``special``: with the text of special tokens."""
        text: str = self.library.decode(list(ids), skip_special_tokens=not special)
        return text

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an answer: the author's, and the turn end that the chat template writes."""
        stated = [each for each in self.author_stop_ids if self.known(each) is not None]
        return (*stated, *self.turn_ends)

    @cached_property
    def author_stop_ids(self) -> tuple[int, ...]:
        """Ids that generation_config.json names, else config.json, else the eos token."""
        eos = self.token_id("eos_token")
        return self.author.stop_ids or (() if eos is None else (eos,))

    @cached_property
    def turn_ends(self) -> tuple[int, ...]:
        """The token that the template writes after an answer, if it is no stop id of the author."""
        found = None if self.template is None else turn_end(self.library, self._render)
        return () if found is None or found in self.author_stop_ids else (found,)

    @cached_property
    def padding(self) -> tuple[int, ...]:
        """Ids below the vocabulary's size that no token has: they are never sampled."""
        return padding(self.library, self.vocabulary) if self.vocabulary else ()

    @property
    def active(self) -> int:
        """One more than the largest id that has a token and an embedding."""
        ids = self.library.get_vocab(with_added_tokens=True).values()
        return 1 + max((each for each in ids if self.known(each) is not None), default=-1)

    def known(self, number: int | None) -> int | None:
        """The id if the model has an embedding for it, else None."""
        beyond = number is None or (self.vocabulary is not None and number >= self.vocabulary)
        return None if beyond else number

    def token_id(self, name: str) -> int | None:
        """Id of a special token by its role, such as ``bos_token``; None if it has none."""
        token = self.special.get(name)
        number: int | None = self.library.token_to_id(token) if token else None
        return number

    def with_template(self, text: str | None) -> Tokenizer:
        """The same tokenizer with another chat template."""
        return self._changed(template=text)

    def on(self, day: datetime | None) -> Tokenizer:
        """The same tokenizer on another day, for templates that write the date."""
        return self._changed(day=day)

    def _changed(self, **changes: object) -> Tokenizer:
        other = copy.copy(self)
        for read_before in ("stop_ids", "turn_ends"):  # out of the template
            vars(other).pop(read_before, None)
        vars(other).update(changes)
        return other

    def chat(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """Render the chat template as text.

        ``messages``: objects of "role", "content" and other keys that the template reads, such as
        tool calls; ``tools``: JSON schemas of functions. Raises CheckpointError if there is no
        template or it fails.
        """
        if self.template is None:
            raise self.templates.missing()
        values = {
            "messages": list(messages),
            "tools": tools,  # None is told apart from undefined by some templates
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        return rendered(self.template, values | self.special, self.day)

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str | None:
        """``chat``, or None where the template refuses these messages."""
        try:
            return self.chat(messages, add_generation_prompt)
        except CheckpointError:
            return None

    def notices(self) -> list[str]:
        """Sentences for a user about the ids. Raises CheckpointError for ids without a row."""
        if self.vocabulary is None:
            return []
        prompts = [self._render(each, True) for each in EXAMPLES] if self.template else []
        texts = [text for text in prompts if text is not None]
        return [
            *check_vocabulary(self.library, self.vocabulary, texts),
            *stop_notices(self.library, self.author_stop_ids, self.turn_ends, self.vocabulary),
        ]

    def prompt_ids(self, text: str, raw: bool = False) -> list[int]:
        """Token ids of a user's prompt, in the chat template if there is one; ``raw``: without."""
        check_unicode(text)
        if raw or not (self.template or self.templates.texts):
            return self.encode(text)
        return self.chat_ids([{"role": "user", "content": text}])

    def chat_ids(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Token ids of messages in the chat template, up to where the answer begins."""
        for message in messages:
            check_unicode(str(message.get("content")))
        return self.encode(self.chat(messages, tools=tools), special=False)


class GenerationTag(Extension):
    """``{% generation %}``, which marks the assistant's text for training; renders its body."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def template_environment(day: datetime | None = None) -> Environment:
    """A sandboxed Jinja environment with the functions and settings of Hugging Face's.

    ``day``: what strftime_now tells; None: the clock.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: (day or datetime.now()).strftime(form)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """json.dumps with the arguments and defaults of transformers' filter."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _optional(path: Path) -> dict[str, Any]:
    values = read_json(path) if path.exists() else {}
    if not isinstance(values, dict):
        raise CheckpointError(f"{path.name} is not a JSON object", "download the file again")
    return values


def _special_tokens(*sources: Mapping[str, Any]) -> dict[str, str]:
    """Role -> token text; a token is a string or an object with its content."""
    tokens = {}
    for source in reversed(sources):
        for role in SPECIAL:
            value = source.get(role)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                tokens[role] = text
    return tokens
