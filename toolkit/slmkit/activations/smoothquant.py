"""SmoothQuant: factors that make large channels of activations smaller.

Channels that are large in the activations and small in the weights become alike, so that integers
with one scale per token lose less of the others.
Source: Xiao et al. 2022, "SmoothQuant", equation 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slmkit.activations.channel_factors import largest_by_channel
from slmkit.activations.observe import Activations
from slmkit.activations.scale_pairs import ScalePair
from slmkit.checkpoint.scaled_weights import Source
from slmkit.ops import Floats


@dataclass(frozen=True)
class SmoothQuant:
    """A channel's factor is a^alpha / w^(1 - alpha), with a its largest activation and w the
    largest magnitude of the weights that read it. A rule of ``channel_factors``."""

    activations: Activations
    alpha: float

    def __call__(self, pair: ScalePair, weights: Source) -> Floats:
        """(channels,); 1 for a channel that is never used."""
        inputs = self.activations.inputs
        # Calibration text may have left an expert idle.
        read = [inputs[name] for name in pair.consumers if name in inputs]
        active = largest_by_channel(pair, read)
        columns = [_largest_of_columns(weights, f"{name}.weight") for name in pair.consumers]
        weight = largest_by_channel(pair, columns)
        used = (active > 0) & (weight > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            factors = active**self.alpha / weight ** (1 - self.alpha)
        result: Floats = np.where(used, factors, np.float32(1))
        return result


def _largest_of_columns(weights: Source, tensor: str) -> Floats:
    largest = [np.abs(block).max(axis=0) for _, block in weights.blocks(tensor)]
    found: Floats = np.max(largest, axis=0)
    return found
