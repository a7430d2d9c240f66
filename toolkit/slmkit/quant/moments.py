"""Moments: the inputs of linears on calibration text, summed up in matrices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from slmkit.ops import Floats
from slmkit.quant.nearest_plane import damped, factorize
from slmkit.quant.rows import blas_threads, in_parts

BLOCK = 256  # inputs whose products are summed up, or copied to the other triangle, at once


@dataclass
class Moments:
    """Sums over tokens, of the inputs x (K,) of linears in the float and the quantized stream.

    ``drift`` has what the float stream gives and the quantized one lacks, times the quantized
    input: of the input, (K, K), or of the output of the only linear that reads it, (N, K).
    """

    hessian: Floats  # (K, K): x x' of the quantized stream; its upper triangle alone, before means
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
        scaled, missing = quantized * roots, lack * roots

        def add_energy(rows: slice) -> None:
            right = slice(rows.start, None)
            self.hessian[rows, right] += scaled[:, rows].T @ scaled[:, right]

        def add_drift(rows: slice) -> None:
            self.drift[rows] += missing[:, rows].T @ scaled

        in_parts(add_energy, len(self.hessian), BLOCK)
        in_parts(add_drift, len(self.drift))
        self.mean += weights @ quantized
        self.lack += weights @ lack
        self.weight += float(weights.sum())
        self.tokens += len(quantized)

    def means(self) -> Moments:
        """The sums divided by the tokens' weights, in place."""
        for sums in (self.hessian, self.drift, self.mean, self.lack):
            sums /= np.float32(self.weight or 1)
        width = len(self.hessian)
        for first in range(0, width, BLOCK):
            block = slice(first, min(first + BLOCK, width))
            self.hessian[block.stop :, block] = self.hessian[block, block.stop :].T
            square = np.triu(self.hessian[block, block])
            self.hessian[block, block] = square + np.triu(square, 1).T
        return self


def correction(moments: Moments, ridge: float) -> Floats:
    """The change of weights that makes them give the float stream's output. (K or N, K)

    The least squares solution drift (H + ridge)^-1: of the weights if ``drift`` is that of an
    output, else to be multiplied by them.
    """
    factor = factorize(damped(moments.hessian, ridge))
    with blas_threads(1):
        # Columns first, as LAPACK wants it: solved in place.
        right = moments.drift.copy().T
        solved = linalg.cho_solve((factor, True), right, overwrite_b=True, check_finite=False)
    result: Floats = np.ascontiguousarray(solved.T)
    return result
