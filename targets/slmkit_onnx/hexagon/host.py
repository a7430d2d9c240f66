"""The host's tables: cos, sin and masks, as an app computes them; for calibration and parity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slmkit.backend.static_runner import rope_names
from slmkit.ops import Floats, Positions, Rope, visible
from slmkit_onnx.hexagon.contract import Contract


@dataclass(frozen=True)
class Host:
    """Compute cos and sin of each rope, and one mask per sliding window."""

    ropes: Sequence[Rope]
    windows: Sequence[int | None]
    mask_value: float  # for keys that a token must not see
    contract: Contract

    def inputs(self, queries: Positions, keys: Positions) -> dict[str, Floats]:
        """cos and sin [1, 1, T, d/2], masks [1, 1, T, S], by input name.

        ``queries``: positions of the T tokens; ``keys``: positions of all S slots.
        """
        inputs: dict[str, Floats] = {}
        for number, rope in enumerate(self.ropes):
            tables = rope.table(np.maximum(queries, 0))
            for name, table in zip(rope_names(number), tables, strict=True):
                inputs[name] = table[None, None]
        for window in self.windows:
            inputs[self.contract.mask_name(window)] = self._mask(queries, keys, window)
        return inputs

    def _mask(self, queries: Positions, keys: Positions, window: int | None) -> Floats:
        """0 where a token may look, ``mask_value`` elsewhere. [1, 1, T, S]"""
        may_look = visible(queries, keys, window)
        return np.where(may_look, np.float32(0), np.float32(self.mask_value))[None, None]
