"""A bundle's codes with an adapter beside them: what the reference computes with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmkit.checkpoint.adapters.change import Change, ChangedWeights, LowRank
from slmkit.quant.codes import CodesFile


class AdaptedCodes(ChangedWeights):
    """Dequantized codes plus the adapter's changes, in float32."""

    def __init__(self, codes: CodesFile, low_ranks: Mapping[str, LowRank]) -> None:
        changes = {f"{name}.weight": Change(each) for name, each in low_ranks.items()}
        super().__init__(codes, changes)
        self.codes, self.stream_scale = codes, codes.stream_scale

    def __getattr__(self, name: str) -> Any:
        """All else is the codes' own."""
        return getattr(self.codes, name)
