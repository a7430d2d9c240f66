"""What an app computes around the graphs: cos, sin, masks. Here for calibration and parity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmkit.ops import Floats, Rope
from slmkit_onnx.hexagon.contract import Contract, Window, rope_names

Positions = NDArray[np.int64]
EMPTY = -1  # the position of a slot that holds no token


@dataclass(frozen=True)
class Host:
    """The host's tables: one rope or more, one mask per sliding window."""

    ropes: Sequence[Rope]
    windows: Sequence[int | None]
    hidden: float  # what the mask takes off
    contract: Contract

    def inputs(self, queries: Positions, keys: Positions) -> dict[str, Floats]:
        """cos, sin and masks for query positions (T,) and the positions in all slots (S,)."""
        found: dict[str, Floats] = {}
        for number, rope in enumerate(self.ropes):
            for name, table in zip(
                rope_names(number), rope.table(np.maximum(queries, 0)), strict=True
            ):
                found[name] = table[None, None]
        for window in self.windows:
            found[self.contract.mask_name(window)] = self._mask(queries, keys, window)
        return found

    def _mask(self, queries: Positions, keys: Positions, window: int | None) -> Floats:
        """0 where a token may look, [1, 1, T, S]; a padding token sees what it likes."""
        distance = queries[:, None] - keys[None, :]
        seen = (distance >= 0) & (keys[None, :] != EMPTY)
        if window is not None:
            seen &= distance < window
        return np.where(seen, np.float32(0), np.float32(self.hidden))[None, None]


def slots(window: Window, length: int, tokens: int, slides: bool) -> tuple[Positions, Positions]:
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
