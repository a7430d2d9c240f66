"""SmoothQuant: move factors from channels of activations into the weights that read them.

Channels that are large in the activations and small in the weights become alike, so that integers
with one scale per token lose less of the others. Exact in floats: a norm's gain, or the rows of
the linear that makes a channel, are divided by what the columns of its readers are multiplied by.
Source: Xiao et al. 2022, "SmoothQuant", equation 4.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from slmkit.activations.observe import Activations
from slmkit.activations.scale_pairs import ScalePair, scale_pairs
from slmkit.checkpoint.scaled_weights import Factors, ScaledWeights, Source
from slmkit.interpreters.recorder import Model
from slmkit.ops import Floats

LARGEST = 1e4  # of a factor and of its inverse


def smoothing_factors(
    model: Model,
    weights: Source,
    activations: Activations,
    alpha: float,
    left_out: Collection[str] = (),
) -> dict[str, Factors]:
    """The factors of all pairs of a model, by weight name; pairs with ``left_out`` weights have
    none.

    A channel's factor is a^alpha / w^(1 - alpha), with a its largest activation and w the largest
    magnitude of the weights that read it.
    """
    outputs: dict[str, Floats] = {}
    inputs: dict[str, Floats] = {}
    pairs = [each for each in scale_pairs(model) if not each.names.intersection(left_out)]
    # Rows first: the columns of the same weights are measured with them.
    for pair in sorted(pairs, key=lambda pair: pair.is_norm):
        scaled = ScaledWeights(weights, {name: Factors(own) for name, own in outputs.items()})
        factors = _factors(pair, scaled, activations, alpha)
        whole = model.weights[f"{pair.producer}.weight"].shape[0]
        own = outputs.setdefault(pair.producer, np.ones(whole, np.float32))
        own[pair.first : pair.first + pair.channels] /= factors
        inputs |= dict.fromkeys(pair.consumers, factors[pair.inputs])
    names = outputs.keys() | inputs.keys()
    return {name: Factors(outputs.get(name), inputs.get(name)) for name in names}


def _factors(pair: ScalePair, weights: Source, activations: Activations, alpha: float) -> Floats:
    """(channels,) float32; 1 for a channel that is never used.

    Those of a linear's outputs are at least their median, over the power of two that is next to
    it: from 0.7 on. So hardly a channel grows: one that calibration text hardly used would leave
    the range of its integers in other text, and a part of a fused linear would outgrow the other
    parts, which share a range with it.
    """
    count = pair.channels
    # Calibration text may have left an expert idle.
    read = [activations.inputs[name] for name in pair.consumers if name in activations.inputs]
    active = _by_channel(pair, read, count)
    columns = [_largest_of_columns(weights, f"{name}.weight") for name in pair.consumers]
    weight = _by_channel(pair, columns, count)
    used = (active > 0) & (weight > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = active**alpha / weight ** (1 - alpha)
    factors = np.where(used, factors, 1).clip(1 / LARGEST, LARGEST)
    if not pair.is_norm:
        median = np.median(factors)
        factors = np.maximum(factors, median) / np.exp2(np.rint(np.log2(median)))
    result: Floats = factors.astype(np.float32)
    return result


def _by_channel(pair: ScalePair, sizes: Sequence[Floats], channels: int) -> Floats:
    """The largest of each channel, over the inputs that read it."""
    largest = np.zeros(channels, np.float32)
    for each in sizes:
        np.maximum.at(largest, pair.inputs, each)
    return largest


def _largest_of_columns(weights: Source, tensor: str) -> Floats:
    largest = [np.abs(block).max(axis=0) for _, block in weights.blocks(tensor)]
    found: Floats = np.max(largest, axis=0)
    return found
