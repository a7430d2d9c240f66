"""Calibration text: read by backends that choose ranges of activations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from slmkit.checkpoint.folder import Checkpoint, refuse_links
from slmkit.checkpoint.tokenizer import Message, Tokenizer
from slmkit.errors import SlmkitError

FILE = "calibration.jsonl"
BUILT_IN = Path(__file__).with_name(FILE)  # our own words, for models that bring none
FORMAT = (
    'a line is {"messages": [{"role": "user", "content": "..."}, ...]}, {"text": "..."} '
    'or {"prompt": "...", "answer": "..."}'
)
PIECE = 800  # characters of a plain text that are one text, about 200 tokens
Ids = tuple[int, ...]


def calibration_texts(checkpoint: Checkpoint, asked: Path | None) -> tuple[Ids, ...]:
    """Token ids of the user's file, else of the checkpoint's own, else of the built-in corpus.

    A file that ends in .jsonl holds conversations, any other plain text. Raises SlmkitError.
    """
    own = checkpoint.folder / FILE
    refuse_links(checkpoint.folder, FILE)
    path = asked or (own if own.is_file() else BUILT_IN)
    return read_texts(path, checkpoint.tokenizer, _pieces, "--calibration")


def read_texts(
    path: Path, tokenizer: Tokenizer, cut: Callable[[str], Iterable[str]], option: str
) -> tuple[Ids, ...]:
    """Token ids of the conversations of a .jsonl file, or of a plain text's parts.

    ``cut``: divides a plain text. ``option``: that gave the file, for the error. Raises
    SlmkitError for a file that cannot be read or holds no text.
    """
    text = _read(path, option)
    if path.suffix == ".jsonl":
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line]
        texts = [_encode_line(line, number, path, tokenizer) for number, line in lines]
    else:
        texts = [tuple(tokenizer.encode(piece)) for piece in cut(text)]
    found = tuple(ids for ids in texts if ids)
    if not found:
        raise SlmkitError(f"{path} holds no text", "give plain text, or JSONL")
    return found


def _pieces(text: str) -> Iterator[str]:
    """A plain text in pieces of whole lines, so that each begins as a text in use does."""
    piece = ""
    for line in text.splitlines(keepends=True):
        piece += line
        if len(piece) >= PIECE:
            yield piece
            piece = ""
    if piece.strip():
        yield piece


def _read(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SlmkitError(
            f"cannot read the text {path}: {error}",
            f"{option} wants a file of plain text, or JSONL of messages, in UTF-8",
        ) from None


def _encode_line(line: str, number: int, path: Path, tokenizer: Tokenizer) -> Ids:
    """Encode one line as the model would read it: through the chat template, if there is one."""
    try:
        values = json.loads(line)
        if "text" in values:
            return tuple(tokenizer.encode(_string(values["text"])))
        if "prompt" in values:
            roles = {"user": values["prompt"], "assistant": values["answer"]}
            values = {"messages": [{"role": role, "content": roles[role]} for role in roles]}
        messages = [
            {key: _string(message[key]) for key in ("role", "content")}
            for message in values["messages"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SlmkitError(f"{path}, line {number}, is not a conversation", FORMAT) from None
    return tuple(_through_template(messages, tokenizer))


def _through_template(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    if tokenizer.template is None:
        return tokenizer.encode("\n".join(message["content"] for message in messages))
    text = tokenizer.chat(messages, add_generation_prompt=False)
    return tokenizer.encode(text, special=False)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
