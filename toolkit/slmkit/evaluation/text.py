"""Text for evaluation, as token ids in windows; positions that are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import SlmkitError
from slmkit.planning.calibration import BUILT_IN, read_texts

Ids = NDArray[np.int64]
HELD_OUT = BUILT_IN.with_name("held_out.jsonl")  # our own words, which no calibration reads
WINDOW = 512  # tokens of a window, by default
TOKENS = 2048  # of all windows, by default
UNSCORED = -1  # in ``EvaluationText.following``


@dataclass(frozen=True)
class Window:
    """A part of a text that is read on its own, from an empty cache."""

    ids: Ids  # (T,)
    first: int = 0  # positions before it are scored in an earlier window, which begins alike

    @property
    def following(self) -> Ids:
        """(T,) The token that follows each position; UNSCORED where the position is not scored."""
        found = np.append(self.ids[1:], UNSCORED)
        found[: self.first] = UNSCORED
        return found


@dataclass(frozen=True)
class EvaluationText:
    """The windows of a text. Every position of theirs with a next token is scored once: where
    windows begin alike (a chat template's first words), only the first of them is scored."""

    windows: tuple[Window, ...]

    @cached_property
    def sequences(self) -> list[Ids]:
        """The token ids of each window, (T,)."""
        return [window.ids for window in self.windows]

    @cached_property
    def following(self) -> Ids:
        """The windows' ``following``, one after the other. (sum of T,)"""
        none = np.zeros(0, np.int64)
        return np.concatenate([none, *(window.following for window in self.windows)])

    @property
    def tokens(self) -> int:
        """Tokens of all windows."""
        return len(self.following)

    @property
    def positions(self) -> int:
        """Positions that are scored."""
        return int((self.following != UNSCORED).sum())

    def part(self, tokens: int) -> tuple[EvaluationText, list[slice]]:
        """Evenly chosen windows of about ``tokens`` tokens, and where their scored positions lie
        among all scored ones."""
        ends = np.cumsum([(window.following != UNSCORED).sum() for window in self.windows])
        chosen = _evenly(len(self.windows), tokens / max(1, self.tokens))
        spans = [slice(int(ends[at - 1]) if at else 0, int(ends[at])) for at in chosen]
        return EvaluationText(tuple(self.windows[at] for at in chosen)), spans


def evaluation_text(
    tokenizer: Tokenizer,
    path: Path | None = None,
    window: int = WINDOW,
    tokens: int = TOKENS,
    whole: bool | None = None,
) -> EvaluationText:
    """A file's text, or the built-in held-out one, in windows of at most ``window`` tokens.

    A .jsonl file holds conversations, rendered through the chat template, and texts; any other
    file is one plain text. About ``tokens`` tokens are read, of evenly chosen windows. ``whole``:
    cut all of each text; else only its first window, which begins as in use: the default for the
    built-in text. Raises SlmkitError.
    """
    whole = path is not None if whole is None else whole
    texts = read_texts(path or HELD_OUT, tokenizer, lambda text: [text], "--data")
    bos = tokenizer.token_id("bos_token")
    parts = [part for ids in texts for part in _cut(ids, window, bos, whole)]
    found = windows_of(_chosen(parts, tokens))
    if not found.positions:
        raise SlmkitError(
            f"{path or HELD_OUT} is too short to predict a token of", "give a longer text"
        )
    return found


def windows_of(sequences: Sequence[Ids]) -> EvaluationText:
    """Windows over token ids (T,) of several sequences."""
    known: dict[tuple[int, int], int] = {}  # a tree of beginnings: (node, token) -> node
    windows = []
    for ids in sequences:
        node, shared = 0, 0
        for at, token in enumerate(ids.tolist()):
            shared += shared == at and (node, token) in known
            node = known.setdefault((node, token), len(known) + 1)
        if shared + 1 < len(ids):
            windows.append(Window(ids, shared))
    return EvaluationText(tuple(windows))


def _cut(ids: Sequence[int], length: int, bos: int | None, whole: bool) -> list[Ids]:
    """Consecutive windows of one text, or only the first; each begins with bos if the text does."""
    start = list(ids[:1]) if ids[0] == bos else []
    step = max(1, length - len(start))
    body = ids[len(start) :]
    ends = range(0, len(body) if whole else 1, step)
    parts = [np.asarray([*start, *body[at : at + step]], dtype=np.int64) for at in ends]
    return [part for part in parts if len(part) > 1]


def _chosen(parts: Sequence[Ids], tokens: int) -> list[Ids]:
    """Evenly chosen windows of about ``tokens`` tokens in all."""
    total = sum(map(len, parts))
    return [parts[at] for at in _evenly(len(parts), tokens / max(1, total))]


def _evenly(count: int, share: float) -> list[int]:
    """A share of the numbers below ``count``, at least one of them, evenly apart."""
    chosen = max(1, round(count * min(1.0, share)))
    return np.unique(np.linspace(0, count - 1, chosen).astype(int)).tolist() if count else []
