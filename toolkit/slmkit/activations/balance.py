"""Balance: factors with which codes that GPTQ chooses lose least.

With scales for groups of inputs, the loss of a matrix is about

    sum over groups, rows: s^2 / 12 * sum over inputs: v / f^2

with s the group's scale in the row, v an input's conditional variance and f its factor; s^2 is in
proportion to the mean over the group of (w f)^2, w the input's weights. So a group's loss is
(sum of w^2 f^2) (sum of v / f^2), which by the inequality of Cauchy and Schwarz is least where
f^4 = v / w^2. A median of 1 keeps the activations about as large as they were.

Where that leaves a channel's largest activation far above those of the others, integers with one
scale per token would lose the others, and float16 might overflow: its factor is larger.

Like SmoothQuant at strength 0.5, but with what GPTQ cannot repair in place of the largest
activation, and all weights of a column in place of the largest one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from slmkit.activations.channel_factors import largest_by_channel
from slmkit.activations.observe import Activations
from slmkit.activations.scale_pairs import ScalePair
from slmkit.checkpoint.scaled_weights import Source
from slmkit.ops import Floats

# Times the median channel's largest activation, that of any other at most. Few channels of real
# models pass it: SmolLM2-135M's had 3 to 19 times the median in the layers' largest ones.
MOST = 8.0


@dataclass(frozen=True)
class Balance:
    """A channel's factor is v^(1/4) / w^(1/2). A rule of ``channel_factors``.

    ``variances``: of the inputs of linears (``conditional_variances``), by weight name;
    ``names``: the linears whose codes count, which the factors are made for.
    """

    activations: Activations
    variances: Mapping[str, Floats]
    names: Collection[str]

    def __call__(self, pair: ScalePair, weights: Source) -> Floats | None:
        """(channels,); 1 for a channel that is never used. None where no codes count, or where no
        text reached the linears."""
        names = [each for each in pair.consumers if each in self.names and each in self.variances]
        if not names:
            return None
        variances, squares = np.zeros(pair.channels), np.zeros(pair.channels)
        for name in names:
            np.add.at(variances, pair.inputs, self.variances[name])
            np.add.at(squares, pair.inputs, _mean_squares(weights, f"{name}.weight"))
        used = (variances > 0) & (squares > 0)
        if not used.any():
            return np.ones(pair.channels, np.float32)
        factors = np.zeros(pair.channels)
        factors[used] = (variances[used] / squares[used]) ** 0.25
        factors[~used] = np.median(factors[used])
        read = [self.activations.inputs[name] for name in names if name in self.activations.inputs]
        largest = largest_by_channel(pair, read)
        factors = np.maximum(factors, largest / (MOST * np.median(largest / factors) or np.inf))
        result: Floats = (factors / np.median(factors)).astype(np.float32)
        return result


def _mean_squares(weights: Source, tensor: str) -> Floats:
    """Of each column of a matrix, (K,)."""
    sums, rows = np.zeros(1), 0
    for _, block in weights.blocks(tensor):
        sums = sums + np.einsum("nk,nk->k", block, block, dtype=np.float64)
        rows += len(block)
    found: Floats = (sums / rows).astype(np.float32)
    return found
