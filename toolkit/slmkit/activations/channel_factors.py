"""Factors that move between channels of activations and the weights that read them.

Exact in floats: a norm's gain, or the rows of the linear that makes a channel, are divided by what
the columns of its readers are multiplied by. A rule says by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from slmkit.activations.scale_pairs import ScalePair, scale_pairs
from slmkit.checkpoint.scaled_weights import Factors, ScaledWeights, Source
from slmkit.interpreters.recorder import Model
from slmkit.ops import Floats

LARGEST = 1e4  # of a factor and of its inverse
# The factors (channels,) of a pair, given the weights with the factors so far; None: none.
Rule = Callable[[ScalePair, Source], Floats | None]


def channel_factors(
    model: Model, weights: Source, rule: Rule, left_out: Collection[str] = ()
) -> dict[str, Factors]:
    """The factors of all pairs of a model, by weight name; pairs with ``left_out`` weights have
    none."""
    outputs: dict[str, Floats] = {}
    inputs: dict[str, Floats] = {}
    pairs = [each for each in scale_pairs(model) if not each.names.intersection(left_out)]
    # Rows first: the columns of the same weights are measured with them.
    for pair in sorted(pairs, key=lambda pair: pair.is_norm):
        scaled = ScaledWeights(weights, {name: Factors(own) for name, own in outputs.items()})
        found = rule(pair, scaled)
        if found is None:
            continue
        factors = _bounded(pair, found)
        whole = model.weights[f"{pair.producer}.weight"].shape[0]
        own = outputs.setdefault(pair.producer, np.ones(whole, np.float32))
        own[pair.first : pair.first + pair.channels] /= factors
        inputs |= dict.fromkeys(pair.consumers, factors[pair.inputs])
    names = outputs.keys() | inputs.keys()
    return {name: Factors(outputs.get(name), inputs.get(name)) for name in names}


def _bounded(pair: ScalePair, factors: Floats) -> Floats:
    """(channels,) float32.

    Those of a linear's outputs are at least their median, over the power of two that is next to
    it: from 0.7 on. So hardly a channel grows: one that calibration text hardly used would leave
    the range of its integers in other text, and a part of a fused linear would outgrow the other
    parts, which share a range with it.
    """
    factors = factors.clip(1 / LARGEST, LARGEST)
    if not pair.is_norm:
        median = np.median(factors)
        factors = np.maximum(factors, median) / np.exp2(np.rint(np.log2(median)))
    result: Floats = factors.astype(np.float32)
    return result


def largest_by_channel(pair: ScalePair, sizes: Sequence[Floats]) -> Floats:
    """The largest of each channel (channels,), over the inputs that read it."""
    largest = np.zeros(pair.channels, np.float32)
    for each in sizes:
        np.maximum.at(largest, pair.inputs, each)
    return largest
