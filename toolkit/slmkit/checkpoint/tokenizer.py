"""The tokenizer of a checkpoint: encode, decode, special tokens, sandboxed chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from slmkit.checkpoint.isolated_tokenizer import IsolatedTokenizer, check_unicode, rendered
from slmkit.errors import CheckpointError
from slmkit.models.config import LARGEST, read_json
from slmkit.system.plain_files import read_text

Message = Mapping[str, Any]
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "tokenizer.model",
)
LONGEST_FILE = 1 << 22  # bytes of a template
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


class Tokenizer:
    """tokenizer.json in the ``tokenizers`` library, with the settings of the files beside it.

    Raises CheckpointError for a missing or unreadable file.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "tokenizer.json").exists():
            raise CheckpointError(
                f"{folder} has no tokenizer.json",
                "fetch it with the weights; a sentencepiece tokenizer.model is turned into one by "
                "transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
            )
        self.library = IsolatedTokenizer(folder / "tokenizer.json")
        self.settings = _optional(folder / "tokenizer_config.json")
        self.special = _special_tokens(self.settings, _optional(folder / "special_tokens_map.json"))
        self.template = _template_text(folder, self.settings)
        self.stop_ids = _stop_ids(folder, self.special, self.library)

    @property
    def size(self) -> int:
        """Number of token ids, added tokens included."""
        return self.library.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of ``text``; ``special``: with those that the tokenizer adds (often bos)."""
        ids: list[int] = self.library.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """Text of ``ids``; ``special``: with the text of special tokens."""
        text: str = self.library.decode(list(ids), skip_special_tokens=not special)
        return text

    def token_id(self, name: str) -> int | None:
        """Id of a special token by its role, such as ``bos_token``; None if it has none."""
        token = self.special.get(name)
        number: int | None = self.library.token_to_id(token) if token else None
        return number

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
            raise CheckpointError(
                "the checkpoint has no chat template",
                "use a plain prompt (--raw), or an instruction-tuned model",
            )
        values = {
            "messages": list(messages),
            "tools": tools,  # None is told apart from undefined by some templates
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        return rendered(self.template, values | self.special)

    def prompt_ids(self, text: str, raw: bool = False) -> list[int]:
        """Token ids of a user's prompt, in the chat template if there is one; ``raw``: without."""
        check_unicode(text)
        if raw or self.template is None:
            return self.encode(text)
        return self.encode(self.chat([{"role": "user", "content": text}]), special=False)


class GenerationTag(Extension):
    """``{% generation %}``, which marks the assistant's text for training; renders its body."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def template_environment() -> Environment:
    """A sandboxed Jinja environment with the functions and settings of Hugging Face's."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


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


def _template_text(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """chat_template.jinja, else the string or the "default" entry of tokenizer_config.json."""
    if (folder / "chat_template.jinja").exists():
        return _text(folder / "chat_template.jinja")
    template = settings.get("chat_template")
    if isinstance(template, list) and all(isinstance(each, dict) for each in template):
        texts = (each.get("template") for each in template if each.get("name") == "default")
        template = next(texts, None)
    if template is not None and not isinstance(template, str):
        raise CheckpointError(
            "tokenizer_config.json: chat_template is not a text", "download the file again"
        )
    return template


def _text(path: Path) -> str:
    try:
        return read_text(path, LONGEST_FILE)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read as text: {error}", "download the file again"
        ) from None


def _stop_ids(
    folder: Path, special: Mapping[str, str], library: IsolatedTokenizer
) -> tuple[int, ...]:
    """Ids that end generation: of generation_config.json, else config.json, else the eos token."""
    for name in ("generation_config.json", "config.json"):
        value = _optional(folder / name).get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        if ids and all(isinstance(each, int) for each in ids):
            return tuple(_check_id(each, name) for each in ids)
    eos = library.token_to_id(special["eos_token"]) if "eos_token" in special else None
    return () if eos is None else (eos,)


def _check_id(number: Any, name: str) -> int:
    """``number``, or CheckpointError if no token can have it."""
    if not 0 <= number < LARGEST:
        raise CheckpointError(
            f"{name}: eos_token_id is {number}, expected the id of a token",
            "compare the file with the one that the model's author published",
        )
    return int(number)
