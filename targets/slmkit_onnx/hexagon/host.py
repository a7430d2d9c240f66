"""What an app computes around the graphs: cos, sin, masks. Here for calibration and parity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slmkit.backend.static_runner import rope_names
from slmkit.ops import Floats, Positions, Rope, visible
from slmkit_onnx.hexagon.contract import Contract


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
        seen = visible(queries, keys, window)
        return np.where(seen, np.float32(0), np.float32(self.hidden))[None, None]
