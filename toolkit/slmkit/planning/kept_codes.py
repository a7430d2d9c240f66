"""The price of codes that are kept with rounded scales: how far weights move, measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from slmkit.checkpoint.folder import Checkpoint
from slmkit.planning.imports import is_kept
from slmkit.planning.prepare import Preparation
from slmkit.quant.codes import CodesFile
from slmkit.recipe.scheme import Scheme


@dataclass(frozen=True)
class KeptCodes:
    """Matrices that have a checkpoint's codes, but not quite its scales or zero points."""

    matrices: int
    error: float  # root mean square of the weights' changes, relative to that of the weights
    worst: str  # the matrix that changes most
    worst_error: float

    def sentence(self, artifacts: str) -> str:
        """For reports. ``artifacts``: the names of those that hold the codes."""
        return (
            f"{artifacts}: {self.matrices} matrices keep the checkpoint's codes with rounded "
            f"scales or zero points; weights move by {self.error:.2%} (root mean square), most in "
            f"{self.worst}: {self.worst_error:.2%}; --requantize makes codes anew"
        )


def kept_codes(
    checkpoint: Checkpoint,
    codes: CodesFile,
    imports: Mapping[str, Scheme],
    rounded: Collection[str],
    prepared: Preparation,
) -> KeptCodes | None:
    """Compare a codes file with the checkpoint's weights, which are read once; None if it keeps no
    codes or holds all of them exactly. ``imports``, ``rounded``: those of the checkpoint."""
    names = [name for name in codes.schemes if is_kept(name, imports, codes.schemes, rounded)]
    source = prepared.weights(checkpoint, codes.schemes)
    signal = noise = 0.0
    errors: dict[str, float] = {}
    for name in names:
        moved = size = 0.0
        for first, block in source.blocks(f"{name}.weight"):
            own = codes.rows(f"{name}.weight", slice(first, first + len(block)))
            moved += float(np.square(own - block, dtype=np.float64).sum())
            size += float(np.square(block, dtype=np.float64).sum())
        codes.forget(name)
        errors[name] = (moved / size) ** 0.5 if size else 0.0
        signal, noise = signal + size, noise + moved
    if not errors:
        return None
    worst = max(errors, key=lambda name: errors[name])
    total = (noise / signal) ** 0.5 if signal else 0.0
    return KeptCodes(len(names), total, worst, errors[worst])
