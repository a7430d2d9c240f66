"""A tokenizer as an app reads it: what text becomes which ids, worked out from tokenizer.json.

Python resolves here what the kinds of tokenizer.json write in ways of their own. An app in any
language then has one algorithm, and nothing to recognize or to refuse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from slmkit.app.tokenizer_kinds import (
    BYTE_LETTERS,
    CONTRACTION,
    DIGITS,
    SPACE,
    Unknown,
    Values,
    steps_of,
    with_kind,
)
from slmkit.bundle.manifest import STRICT

NO_TOKEN = -1
LARGEST_ID = 1 << 22  # vocabularies have up to 262,144 tokens
BYTES = {letter: byte for byte, letter in BYTE_LETTERS.items()}
BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
GPT_2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SINGLE_DIGITS = r"\p{N}|[^\p{N}]+"
# Unicode's White_Space, which \s is in tokenizer.json; to ICU and to Java it is another set.
WHITE = r"\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
ANY_CASE = r"'(?:[sS\u017fdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])"  # the long s folds to s, too


class Added(BaseModel):
    """A token that is found in a text as it stands. ``late``: only in what the others leave.

    ``lstrip``, ``rstrip``: it takes the white space before it, or after it, with it.
    """

    model_config = STRICT

    id: int
    content: str
    special: bool  # not shown to the user
    late: bool
    lstrip: bool
    rstrip: bool


class Tokens(BaseModel):
    """tokens.json, the tokenizer of an app.

    A text is cut at its added tokens. What is between them is composed where ``nfc`` says so, gets
    ``prefix`` before it, and is cut into the matches of each expression of ``splits`` in turn. A
    piece is one token where ``whole_first`` and its bytes are those of a token. Else each of its
    characters becomes the id that ``characters`` gives it, or the ids of its UTF-8 bytes; then of
    all neighbours in ``merges`` the first pair of the list is joined, the leftmost one, and so on.
    """

    model_config = STRICT

    format: Literal["slmkit-app-tokens/1"] = "slmkit-app-tokens/1"
    nfc: bool
    prefix: str  # the first space of decoded text is left out where this is one
    splits: tuple[str, ...]  # read alike by ICU and java.util.regex; their matches are all the text
    whole_first: bool
    added: tuple[Added, ...]  # of several that fit, the first one is found
    byte_ids: tuple[int, ...]  # of 256 bytes; NO_TOKEN: it is left out of a text
    characters: tuple[int, ...]  # a code point and its id, and so on; empty: all go by their bytes
    merges: tuple[int, ...]  # left id, right id, joined id, and so on
    texts: tuple[str | None, ...]  # by id: its bytes as the letters U+0000 to U+00FF


def read_tokens(path: Path) -> Tokens:
    """The tokens of a tokenizer.json. Raises RefusedError for one that no app reads."""
    return with_kind(path, tokens_of)


def tokens_of(values: Values) -> Tokens:
    """The tokens of a tokenizer.json's content, of a kind that is known. Raises Unknown."""
    model, vocab = values["model"], values["model"]["vocab"]
    in_pieces = bool(model.get("byte_fallback"))
    name = "<0x{:02X}>".format if in_pieces else BYTE_LETTERS.__getitem__
    added = [token for token in values.get("added_tokens") or [] if token["content"]]
    return Tokens(
        nfc=values.get("normalizer") == {"type": "NFC"},
        prefix=" " if in_pieces and len(steps_of(values["normalizer"], "normalizers")) > 1 else "",
        splits=() if in_pieces else tuple(_splits(values)),
        whole_first=bool(model.get("ignore_merges")),
        added=tuple(map(_added, sorted(added, key=lambda token: -len(token["content"])))),
        byte_ids=tuple(vocab.get(name(byte), NO_TOKEN) for byte in range(256)),
        characters=tuple(_characters(vocab)) if in_pieces else (),
        merges=tuple(_merges(model["merges"], vocab)),
        texts=_texts(vocab | {token["content"]: token["id"] for token in added}, in_pieces),
    )


def _added(token: Values) -> Added:
    late = bool(token.get("normalized"))
    flags = {key: bool(token.get(key)) for key in ("special", "lstrip", "rstrip")}
    return Added(id=token["id"], content=token["content"], late=late, **flags)


def _splits(values: Values) -> Iterator[str]:
    *before, last = steps_of(values["pre_tokenizer"], "pretokenizers")
    for step in before:
        yield SINGLE_DIGITS if step == DIGITS else _portable(step["pattern"]["Regex"])
    if last.get("use_regex", True):
        yield _portable(GPT_2)


def _portable(pattern: str) -> str:
    """An expression that means the same to every reader."""
    pattern = pattern.replace(CONTRACTION, ANY_CASE).replace(r"[^\s", f"[^{WHITE}")
    return pattern.replace(r"\s", f"[{WHITE}]").replace(r"\S", f"[^{WHITE}]")


def _characters(vocab: Mapping[str, int]) -> Iterator[int]:
    """Those with a token; a space has the one of SentencePiece's letter for it."""
    if SPACE not in vocab:
        raise Unknown("its vocabulary has no token for a space")
    for letter, at in {**vocab, " ": vocab[SPACE]}.items():
        if len(letter) == 1:
            yield from (ord(letter), at)


def _merges(merges: list[str | list[str]], vocab: Mapping[str, int]) -> Iterator[int]:
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield from (vocab[left], vocab[right], vocab[left + right])


def _texts(ids: Mapping[str, int], in_pieces: bool) -> tuple[str | None, ...]:
    size = max(ids.values()) + 1
    if min(ids.values()) < 0 or size > LARGEST_ID:
        raise Unknown("its ids are no numbers of tokens")
    texts: list[str | None] = [None] * size
    for token, at in ids.items():
        texts[at] = (_piece(token) if in_pieces else _bytes(token)).decode("latin-1")
    return tuple(texts)


def _piece(token: str) -> bytes:
    """The bytes of a SentencePiece token: one that its name tells, or text with spaces."""
    found = BYTE_TOKEN.fullmatch(token)
    return bytes.fromhex(found[1]) if found else token.replace(SPACE, " ").encode()


def _bytes(token: str) -> bytes:
    """The bytes of byte-level BPE's letters; a token with other letters is text."""
    known = all(letter in BYTES for letter in token)
    return bytes(BYTES[letter] for letter in token) if known else token.encode()
