"""The tokens of a GGUF file, and the settings of its tokenizer: special tokens, templates, ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slmkit.errors import CheckpointError
from slmkit.models.config import Config

UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5  # token types; 1 is normal, 6 a byte
SPACE = "\u2581"  # what SentencePiece writes for a space
BESIDE = "put the model's own tokenizer.json and tokenizer_config.json beside the file"
IDS = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
Values = dict[str, Any]


class Vocabulary:
    """The tokens of a file. Raises CheckpointError for lists that do not fit together."""

    def __init__(self, metadata: Config) -> None:
        self.metadata = metadata
        self.tokens = metadata.strings("tokenizer.ggml.tokens")
        count = len(self.tokens)
        self.types = numbers_of(metadata, "tokenizer.ggml.token_type", count, [1] * count)
        self.kind = metadata.string("tokenizer.ggml.model")
        if self.kind == "llama":  # user-defined tokens are matched in text as it is typed
            self.tokens = [
                token.replace(SPACE, " ") if kind == USER_DEFINED else token
                for token, kind in zip(self.tokens, self.types, strict=True)
            ]
        if len(set(self.tokens)) < count:
            self.tokens = _told_apart(self.tokens)

    def token(self, role: str) -> str | None:
        """The token of a role, such as "bos"; None if it has none."""
        number = self.id(role)
        return None if number is None else self.tokens[number]

    def id(self, role: str) -> int | None:
        """The id of a role. Raises CheckpointError for one beyond the tokens."""
        key = f"tokenizer.ggml.{role}_token_id"
        if not self.metadata.has(key) or self.metadata.values[key] in (0xFFFFFFFF, -1):
            return None
        return self.metadata.integer(key, least=0, most=len(self.tokens) - 1)

    def flag(self, name: str, default: bool) -> bool:
        """Whether ``tokenizer.ggml.add_...`` is set."""
        return self.metadata.boolean(f"tokenizer.ggml.add_{name}", default)

    @property
    def added(self) -> list[Values]:
        """added_tokens: control tokens are special, user-defined ones are text."""
        kinds = (UNKNOWN, CONTROL, USER_DEFINED)
        return [
            {
                "id": number,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind != USER_DEFINED,
            }
            for number, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind in kinds and token
        ]

    @property
    def ids(self) -> dict[str, int]:
        """Token -> id."""
        return {token: number for number, token in enumerate(self.tokens)}


def settings_of(vocabulary: Vocabulary, name: str) -> Values:
    """tokenizer_config.json. ``name``: the tokenizer_class."""
    metadata = vocabulary.metadata
    settings: Values = {"tokenizer_class": name, "clean_up_tokenization_spaces": False}
    for role, stored in IDS.items():
        token = vocabulary.token(stored)
        if token is not None:
            settings[role] = token
    prefix = "tokenizer.chat_template"
    texts = {
        key.removeprefix(prefix).removeprefix(".") or "default": metadata.string(key)
        for key in metadata.values
        if key == prefix or key.startswith(f"{prefix}.")
    }
    if list(texts) == ["default"]:
        settings["chat_template"] = texts["default"]
    elif texts:
        settings["chat_template"] = [
            {"name": name, "template": text} for name, text in texts.items()
        ]
    return settings


def generation_of(vocabulary: Vocabulary) -> Values:
    """generation_config.json."""
    ends = [vocabulary.id(role) for role in ("eos", "eot", "eom")]
    stops = list(dict.fromkeys(each for each in ends if each is not None))
    values: Values = {"eos_token_id": stops} if stops else {}
    first = vocabulary.id("bos")
    if first is not None:
        values["bos_token_id"] = first
    names = {"temp": "temperature", "top_p": "top_p", "top_k": "top_k"}
    found: Mapping[str, Any] = {
        name: vocabulary.metadata.values[f"general.sampling.{key}"]
        for key, name in names.items()
        if vocabulary.metadata.has(f"general.sampling.{key}")
    }
    return {**values, **found, "do_sample": True} if found else values


def numbers_of(metadata: Config, key: str, count: int, default: list[Any] | None) -> list[Any]:
    """A number for each token. Raises CheckpointError."""
    found = metadata.values.get(key, default)
    if (
        not isinstance(found, list)
        or len(found) != count
        or not all(isinstance(each, int | float) for each in found)
    ):
        raise CheckpointError(
            f"{metadata.where}: {key} is no list of {count} numbers, one for each token", BESIDE
        )
    return found


def _told_apart(tokens: Sequence[str]) -> list[str]:
    """Equal tokens with their ids behind: the first of them keeps its text."""
    seen, found = set[str](), []
    for number, token in enumerate(tokens):
        found.append(f"{token}<{number}>" if token in seen else token)
        seen.add(token)
    return found
