"""The kinds of tokenizer.json that the apps' own tokenizers read; every other one is refused.

The apps know byte-level BPE with four splits, and SentencePiece's BPE with byte fallback, with and
without a space before a text. Every field of the file that changes ids or text must be one of those
that they know: a setting that is left unread would be a wrong token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from slmkit.errors import RefusedError
from slmkit.system.plain_files import parse_json, read_text

Values = Mapping[str, Any]
Found = TypeVar("Found")
LARGEST = 1 << 29  # bytes of a tokenizer.json
SPACE = "\u2581"  # SentencePiece's letter for a space
# The regular expressions of the families' tokenizer.json, as published.
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    rf"{CONTRACTION}|{LETTERS}|\p{{N}}{{1,3}}|{REST}": "Llama 3",
    rf"{CONTRACTION}|{LETTERS}|\p{{N}}|{REST}": "Qwen 2",
}
DIGITS = {"type": "Digits", "individual_digits": True}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Prepend", "prepend": SPACE}
UNUSED_SPLIT = {  # Gemma's: the normalizer has left no space
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}
PIECES = [
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
# The letters of bytes in byte-level BPE: those that can be seen stand for themselves.
SEEN = (*range(33, 127), *range(161, 173), *range(174, 256))
HIDDEN = [byte for byte in range(256) if byte not in SEEN]
BYTE_LETTERS = {each: chr(each) for each in SEEN} | {
    each: chr(256 + at) for at, each in enumerate(HIDDEN)
}
TEXT_BYTES = (*range(0xC0), *range(0xC2, 0xF5))  # others are never part of UTF-8
HINT = "take an artifact whose runtime tokenizes itself, or another model"


def check_tokenizer(path: Path) -> str:
    """The kind of a tokenizer.json, in words. Raises RefusedError for one that no app reads."""
    return with_kind(path, tokenizer_kind)


def with_kind(path: Path, read: Callable[[Values], Found]) -> Found:
    """Give the content of a tokenizer.json of a kind that the apps know to ``read``.

    Raises RefusedError for any other, and where ``read`` raises Unknown.
    """
    try:
        values = parse_json(read_text(path, LARGEST))
        tokenizer_kind(values)
        return read(values)
    except Unknown as why:
        reason = str(why)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"it is damaged ({error})"
    raise RefusedError(f"the apps' tokenizers cannot read tokenizer.json: {reason}", HINT)


class Unknown(Exception):
    """A tokenizer of another kind: the sentence says what it has."""


def tokenizer_kind(values: Values) -> str:
    """The kind of a tokenizer.json's content. Raises Unknown."""
    model = values["model"]
    if model.get("type", "BPE") != "BPE":
        raise Unknown(f"its model is {model['type']}, not BPE")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise Unknown(f"its model has {key}")
    kind = _sentencepiece(values) if model.get("byte_fallback") else _byte_level(values)
    _check_bytes(values)
    _check_added(values)
    return kind


def _byte_level(values: Values) -> str:
    normalizer, decoder = values.get("normalizer"), values.get("decoder") or {}
    steps = steps_of(values.get("pre_tokenizer"), "pretokenizers")
    if normalizer not in (None, {"type": "NFC"}):
        raise Unknown(f"its normalizer is {_named(normalizer)}")
    if decoder.get("type") != "ByteLevel":
        raise Unknown(f"its decoder is {_named(decoder)}")
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        raise Unknown(f"its pre-tokenizer is {_named(steps)}")
    own_split = steps[-1].get("use_regex", True)
    before = steps[:-1]
    if own_split and before in ([], [DIGITS]):
        return "byte-level BPE, GPT-2's split" + (", single digits" if before else "")
    if not own_split and len(before) == 1:
        pattern = (before[0].get("pattern") or {}).get("Regex")
        expected = {
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Isolated",
            "invert": False,
        }
        if before[0] == expected and pattern in SPLITS:
            return f"byte-level BPE, the split of {SPLITS[pattern]}"
        if pattern is not None:
            raise Unknown(f"it splits text by an expression that they do not know: {pattern}")
    raise Unknown(f"its pre-tokenizer is {_named(steps)}")


def _sentencepiece(values: Values) -> str:
    normalizer = steps_of(values.get("normalizer"), "normalizers")
    decoder = steps_of(values.get("decoder"), "decoders")
    if normalizer not in ([REPLACE], [PREPEND, REPLACE]):
        raise Unknown(f"its normalizer is {_named(normalizer)}")
    if values.get("pre_tokenizer") not in (None, UNUSED_SPLIT):
        raise Unknown(f"its pre-tokenizer is {_named(values['pre_tokenizer'])}")
    prefixed = len(normalizer) == 2
    if decoder != ([*PIECES, STRIP] if prefixed else PIECES):
        raise Unknown(f"its decoder is {_named(decoder)}")
    if values["model"].get("ignore_merges"):
        raise Unknown("its model has byte_fallback and ignore_merges")
    return "SentencePiece's BPE, " + ("a space before a text" if prefixed else "as Gemma has it")


def _check_bytes(values: Values) -> None:
    """Every byte of UTF-8 has a token, or byte-level BPE leaves it out, as that of SmolLM2 does."""
    model = values["model"]
    if not model.get("byte_fallback") and model.get("unk_token") is None:
        return
    name = "<0x{:02X}>".format if model.get("byte_fallback") else BYTE_LETTERS.__getitem__
    missing = [byte for byte in TEXT_BYTES if name(byte) not in model["vocab"]]
    if missing:
        raise Unknown(f"its vocabulary has no token for {len(missing)} bytes of UTF-8")


def _check_added(values: Values) -> None:
    """Added tokens must be found in a text as it is."""
    for token in values.get("added_tokens") or []:
        if token.get("single_word"):
            raise Unknown(f"its token {token['content']!r} is found as a whole word only")
        if token.get("normalized") and values.get("normalizer") is not None:
            raise Unknown(f"its token {token['content']!r} is found in normalized text")


def steps_of(value: Values | None, name: str) -> Sequence[Values]:
    """The steps of a sequence; a single one as a sequence of one."""
    if value is None:
        return []
    return list(value[name]) if value.get("type") == "Sequence" else [value]


def _named(value: Any) -> str:
    """Steps by their types."""
    if isinstance(value, list):
        return " and ".join(_named(each) for each in value) or "none"
    return str(value["type"]) if value else "none"
