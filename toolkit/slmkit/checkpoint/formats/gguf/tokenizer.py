"""The tokenizer's files of a checkpoint from the metadata of a GGUF file.

Two kinds are read: SentencePiece's BPE (``llama``), whose merges follow from the tokens' scores,
and byte-level BPE (``gpt2``), whose pre-tokenizer has a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slmkit.checkpoint.formats.gguf.pre_tokenizers import CUTS, LEVEL, Cut
from slmkit.errors import CheckpointError
from slmkit.models.config import Config

UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5  # token types; 1 is normal, 6 a byte
LONGEST_TOKEN = 256  # characters of one that others become; real ones have up to some 30
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
        self.types = _list(metadata, "tokenizer.ggml.token_type", count, [1] * count)
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


def tokenizer_of(metadata: Config) -> tuple[Values, Values, Values]:
    """tokenizer.json, tokenizer_config.json and generation_config.json. Raises CheckpointError."""
    vocabulary = Vocabulary(metadata)
    if vocabulary.kind == "llama":
        tokenizer, cut = _sentencepiece(vocabulary), None
    elif vocabulary.kind == "gpt2":
        cut = _cut(metadata)
        tokenizer = _byte_level(vocabulary, cut)
    else:
        raise CheckpointError(
            f"{metadata.where}: tokenizer.ggml.model is {vocabulary.kind!r}; llama and gpt2 "
            "are read",
            BESIDE,
        )
    tokenizer["post_processor"] = _around(vocabulary, cut is None or cut.bos)
    settings = "LlamaTokenizer" if cut is None else cut.settings
    if cut is None and metadata.string("general.architecture").startswith("gemma"):
        settings = "GemmaTokenizer"
    return tokenizer, _settings(vocabulary, settings), _generation(vocabulary)


def _cut(metadata: Config) -> Cut:
    name = metadata.string("tokenizer.ggml.pre", "default")
    if name not in CUTS:
        raise CheckpointError(
            f"{metadata.where}: the pre-tokenizer {name!r} is not known; known: "
            f"{', '.join(sorted(CUTS))}",
            BESIDE,
        )
    return CUTS[name]


def _byte_level(vocabulary: Vocabulary, cut: Cut) -> Values:
    merges = [tuple(each.split(" ")) for each in _merges(vocabulary.metadata)]
    if any(len(pair) != 2 for pair in merges):
        raise CheckpointError(
            f"{vocabulary.metadata.where}: tokenizer.ggml.merges holds no pairs", BESIDE
        )
    model = _bpe(vocabulary, [list(pair) for pair in merges])
    model["ignore_merges"] = cut.whole_words
    return _file(
        vocabulary,
        {"type": "NFC"} if cut.nfc else None,
        cut.steps,
        {**LEVEL, "use_regex": True},
        model,
    )


def _merges(metadata: Config) -> list[str]:
    return metadata.strings("tokenizer.ggml.merges")


def _sentencepiece(vocabulary: Vocabulary) -> Values:
    metadata = vocabulary.metadata
    count = len(vocabulary.tokens)
    scores = _list(metadata, "tokenizer.ggml.scores", count, None)
    model = _bpe(vocabulary, _merges_of(vocabulary, scores))
    model |= {"byte_fallback": True, "fuse_unk": True, "unk_token": vocabulary.token("unknown")}
    if model["unk_token"] is None and UNKNOWN in vocabulary.types:
        model["unk_token"] = vocabulary.tokens[vocabulary.types.index(UNKNOWN)]
    spaces: list[Values] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if not vocabulary.flag("space_prefix", True):
        split = {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        }
        decoder = {"type": "Sequence", "decoders": spaces}
        return _file(vocabulary, replace, split, decoder, model)
    prepend = {"type": "Prepend", "prepend": SPACE}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return _file(
        vocabulary,
        {"type": "Sequence", "normalizers": [prepend, replace]},
        None,
        {"type": "Sequence", "decoders": [*spaces, strip]},
        model,
    )


def _merges_of(vocabulary: Vocabulary, scores: Sequence[float]) -> list[list[str]]:
    """Each token that is two others together, the best score first."""
    ids, types = vocabulary.ids, vocabulary.types
    normal = {token for token, number in ids.items() if types[number] == 1}
    longest = max(map(len, normal), default=0)
    if longest > LONGEST_TOKEN:
        raise CheckpointError(
            f"{vocabulary.metadata.where}: a token has {longest} characters; at most "
            f"{LONGEST_TOKEN} are read",
            BESIDE,
        )
    found = []
    for token in normal:
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in normal and right in normal:
                found.append((-scores[ids[token]], ids[left], ids[right]))
    return [[vocabulary.tokens[left], vocabulary.tokens[right]] for _, left, right in sorted(found)]


def _bpe(vocabulary: Vocabulary, merges: list[list[str]]) -> Values:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocabulary.ids,
        "merges": merges,
    }


def _file(
    vocabulary: Vocabulary, normalizer: Any, pre_tokenizer: Any, decoder: Any, model: Values
) -> Values:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def _around(vocabulary: Vocabulary, bos: bool) -> Values | None:
    """The tokens that are put before and after a text."""
    wanted = {
        "bos": vocabulary.flag("bos_token", bos),
        "eos": vocabulary.flag("eos_token", False),
    }
    found = {role: vocabulary.token(role) for role in wanted if wanted[role]}
    names = {role: token for role, token in found.items() if token is not None}
    if not names:
        return None
    single = [_special(names["bos"])] if "bos" in names else []
    single.append({"Sequence": {"id": "A", "type_id": 0}})
    single += [_special(names["eos"])] if "eos" in names else []
    second = [{key: {**each, "type_id": 1} for key, each in step.items()} for step in single]
    for step in second:
        if "Sequence" in step:
            step["Sequence"]["id"] = "B"
    tokens = {
        token: {"id": token, "ids": [vocabulary.ids[token]], "tokens": [token]}
        for token in names.values()
    }
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, *second],
        "special_tokens": tokens,
    }


def _special(token: str) -> Values:
    return {"SpecialToken": {"id": token, "type_id": 0}}


def _settings(vocabulary: Vocabulary, name: str) -> Values:
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


def _generation(vocabulary: Vocabulary) -> Values:
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


def _list(metadata: Config, key: str, count: int, default: list[Any] | None) -> list[Any]:
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
