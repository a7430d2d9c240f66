"""The host's work around graphs of a fixed size: windows, cache slots, chunks of a prompt.

Backends whose graphs read a fixed number of tokens share it: their runners do what an app would.
"""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from slmkit.errors import BackendError
from slmkit.ops import Floats, Positions

Arrays = dict[str, NDArray[Any]]
EMPTY = -1  # the position of a slot that holds no token


@dataclass(frozen=True)
class Window:
    """Tokens that one graph reads, and slots of the cache before them."""

    tokens: int  # T
    past: int  # S - T

    @property
    def total(self) -> int:
        """S, the context length."""
        return self.tokens + self.past


def rope_names(number: int) -> tuple[str, str]:
    """Names of the cos and sin inputs of rope ``number``."""
    return ("cos", "sin") if number == 0 else (f"cos_{number + 1}", f"sin_{number + 1}")


def slots(
    window: Window, length: int, tokens: int, slides: bool = False
) -> tuple[Positions, Positions]:
    """Positions of the T query slots and of all S key slots when ``tokens`` follow ``length``.

    Tokens lie first in their slots, and so does the past; where the past slides, both lie last.
    """
    room, past = window.tokens - tokens, np.arange(window.past)
    queries = np.full(window.tokens, EMPTY)
    here = slice(room, None) if slides else slice(0, tokens)
    queries[here] = np.arange(length, length + tokens)
    positions = past + length - window.past if slides else past
    positions = np.where((positions < length) & (positions >= 0), positions, EMPTY)
    return queries, np.concatenate([positions, queries])


def prefill_tokens(chunk: int, context_length: int) -> int:
    """Tokens that a prefill graph reads: a chunk, at most half of the context, at least two."""
    return max(2, min(chunk, context_length // 2))


def check_context(length: int, context_length: int) -> None:
    """Raise BackendError for a sequence longer than the artifact was built for."""
    if length > context_length:
        raise BackendError(
            f"the sequence of {length} tokens passes the artifact's context of {context_length}",
            "build with a larger --context, or shorten the prompt",
        )


class StaticRunner(ABC):
    """Feeds a sequence through graphs of fixed token counts: prefill in chunks, then decode."""

    context_length: int
    sizes: tuple[int, ...]  # token counts of the graphs: T and 1
    whole_chunks = False  # a state has no place for tokens that only fill a chunk up
    length = 0  # tokens of the sequence so far

    @abstractmethod
    def step(self, ids: NDArray[np.int64], window: Window) -> Floats:
        """Run at most ``window.tokens`` tokens after ``length``; their logits, (len(ids), V)."""

    def feed(self, ids: NDArray[np.int64]) -> Floats:
        """Append tokens; their logits, (T, V). Raises BackendError beyond the context."""
        check_context(self.length + len(ids), self.context_length)
        logits = []
        while len(ids):
            size = self._fitting(len(ids))
            logits.append(self.step(ids[:size], Window(size, self.context_length - size)))
            self.length += len(ids[:size])
            ids = ids[size:]
        return np.concatenate(logits)

    def _fitting(self, tokens: int) -> int:
        """Choose the graph: prefill for several tokens while its past holds the whole sequence."""
        most = max(self.sizes)
        if self.whole_chunks and tokens < most:
            return 1
        return most if tokens > 1 and self.length + most <= self.context_length else 1


@dataclass(frozen=True)
class _Kept:
    """An array in a file."""

    at: int  # bytes before it
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Calls:
    """Calls of a model whose parts run one after another, each with the same calls: what a call of
    one part hands to the same call of later ones, by name.

    It lies in a file meanwhile: of a long text it is more than a part's weights.
    """

    def __init__(self) -> None:
        self._kept: list[dict[str, _Kept]] = []
        self._next = 0

    @cached_property
    def _file(self) -> IO[bytes]:
        """Made for the first part: a whole model hands nothing on."""
        file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, file.close)
        return file

    def begin(self) -> None:
        """A part begins: its first call comes next."""
        self._next = 0

    def handed(self) -> Arrays:
        """The values that earlier parts handed to the call that is next, which it becomes."""
        if self._next == len(self._kept):
            self._kept.append({})
        self._next += 1
        return {name: self._read(each) for name, each in self._kept[self._next - 1].items()}

    def hand(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Hand on what the open part made of the call that was asked for last."""
        self._kept[self._next - 1] |= {name: self._write(each) for name, each in values.items()}

    def _read(self, kept: _Kept) -> NDArray[Any]:
        self._file.seek(kept.at)
        content = self._file.read(kept.dtype.itemsize * math.prod(kept.shape))
        return np.frombuffer(content, kept.dtype).reshape(kept.shape)

    def _write(self, values: NDArray[Any]) -> _Kept:
        at = self._file.seek(0, os.SEEK_END)
        self._file.write(np.ascontiguousarray(values).tobytes())
        return _Kept(at, values.dtype, values.shape)
