"""Balance: factors with which codes that GPTQ chooses lose least.

With scales for groups of inputs, the loss of a matrix is about

    sum over groups, rows: s^2 / 12 * sum over inputs: v / f^2

with s the group's scale in the row, v an input's conditional variance and f its factor; s^2 is in
proportion to the mean over the group of (w f)^2, w the input's weights. So a group's loss is
(sum of w^2 f^2) (sum of v / f^2), which by the inequality of Cauchy and Schwarz is least where
f^4 = v / w^2. A geometric mean of 1 keeps a norm's output as large as it was.

Like SmoothQuant at strength 0.5, but with what GPTQ cannot repair in place of the largest
activation, and all weights of a column in place of the largest one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from slmkit.activations.scale_pairs import ScalePair
from slmkit.checkpoint.scaled_weights import Source
from slmkit.ops import Floats


@dataclass(frozen=True)
class Balance:
    """A channel's factor is v^(1/4) / w^(1/2). A rule of ``channel_factors``.

    ``variances``: of the inputs of linears (``conditional_variances``), by weight name;
    ``names``: the linears whose codes count, which the factors are made for.
    """

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
        factors = np.ones(pair.channels)
        factors[used] = (variances[used] / squares[used]) ** 0.25
        if pair.is_norm and used.any():
            factors[used] /= np.exp(np.log(factors[used]).mean())
        return factors.astype(np.float32)


def _mean_squares(weights: Source, tensor: str) -> Floats:
    """Of each column of a matrix, (K,)."""
    sums, rows = np.zeros(1), 0
    for _, block in weights.blocks(tensor):
        sums = sums + np.einsum("nk,nk->k", block, block, dtype=np.float64)
        rows += len(block)
    found: Floats = (sums / rows).astype(np.float32)
    return found
