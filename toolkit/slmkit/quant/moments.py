"""Moments: the inputs of linears on calibration text, summed up in matrices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from slmkit.ops import Floats
from slmkit.quant.nearest_plane import damped, factorize


@dataclass
class Moments:
    """Sums over tokens, of the inputs x (K,) of linears in the float and the quantized stream.

    ``drift`` has what the float stream gives and the quantized one lacks, times the quantized
    input: of the input, (K, K), or of the output of the only linear that reads it, (N, K).
    """

    hessian: Floats  # (K, K): x x' of the quantized stream
    drift: Floats
    mean: Floats  # (K,) of the quantized stream
    lack: Floats  # (K,) or (N,): as ``drift``, the mean
    weight: float = 0.0  # sum of the tokens' weights
    tokens: int = 0

    @classmethod
    def zeros(cls, width: int, outputs: int) -> Moments:
        """For linears of ``width`` inputs; ``outputs``: rows of ``drift``."""
        return cls(
            np.zeros((width, width), np.float32),
            np.zeros((outputs, width), np.float32),
            np.zeros(width, np.float32),
            np.zeros(outputs, np.float32),
        )

    def add(self, quantized: Floats, lack: Floats, weights: Floats) -> None:
        """Add tokens: ``quantized`` (T, K), ``lack`` (T, K or N), ``weights`` (T,)."""
        roots = np.sqrt(weights)[:, None]
        scaled = quantized * roots
        self.hessian += scaled.T @ scaled
        self.drift += (lack * roots).T @ scaled
        self.mean += weights @ quantized
        self.lack += weights @ lack
        self.weight += float(weights.sum())
        self.tokens += len(quantized)

    def means(self) -> Moments:
        """The sums divided by the tokens' weights, in place."""
        for sums in (self.hessian, self.drift, self.mean, self.lack):
            sums /= np.float32(self.weight or 1)
        return self


def correction(moments: Moments, ridge: float) -> Floats:
    """The change of weights that makes them give the float stream's output. (K or N, K)

    The least squares solution drift (H + ridge)^-1: of the weights if ``drift`` is that of an
    output, else to be multiplied by them.
    """
    factor = factorize(damped(moments.hessian, ridge))
    right = moments.drift.T.astype(np.float64, order="F")
    solved = linalg.cho_solve((factor, True), right, overwrite_b=True, check_finite=False)
    result: Floats = np.ascontiguousarray(solved.T, dtype=np.float32)
    return result
