"""Moments: the inputs of linears on calibration text, summed up in matrices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slmkit.ops import Floats
from slmkit.quant import blas
from slmkit.system.cores import in_parts, product

BLOCK = 256  # rows that are copied to the other triangle at once


def mirror(sums: Floats) -> None:
    """Copy the upper triangle of ``sums`` (K, K) to the lower one."""
    for first in range(0, len(sums), BLOCK):
        block = slice(first, min(first + BLOCK, len(sums)))
        sums[block.stop :, block] = sums[block, block.stop :].T
        square = np.triu(sums[block, block])
        sums[block, block] = square + np.triu(square, 1).T


@dataclass
class Moments:
    """Sums over tokens: of the inputs x of linears in the quantized stream, and of what is wanted.

    That is the input in the float stream, (K,), or the output of the only linear that reads it,
    (N,).
    """

    hessian: Floats  # (K, K): x x'; its upper triangle alone, before means
    cross: Floats | None  # (K or N, K): what is wanted, times x'; None: nobody asks for it
    mean: Floats  # (K,): x
    wanted: Floats  # (K or N,)
    weight: float = 0.0  # sum of the tokens' weights
    tokens: int = 0

    @classmethod
    def zeros(cls, width: int, outputs: int, crossed: bool = True) -> Moments:
        """For linears of ``width`` inputs; ``outputs``: numbers that are wanted of a token;
        ``crossed``: whether ``drift`` will be asked for."""
        return cls(
            np.zeros((width, width), np.float32),
            np.zeros((outputs, width), np.float32) if crossed else None,
            np.zeros(width, np.float32),
            np.zeros(outputs, np.float32),
        )

    def add(self, x: Floats, wanted: Floats, weights: Floats | None = None) -> None:
        """Add tokens: ``x`` (T, K), ``wanted`` (T, K or N), ``weights`` (T,), else 1."""
        counts = np.ones(len(x), np.float32) if weights is None else weights
        self.mean += counts @ x
        self.wanted += counts @ wanted
        self.weight += float(counts.sum())
        self.tokens += len(x)
        if weights is not None:
            roots = np.sqrt(weights)[:, None]
            x, wanted = x * roots, wanted * roots
        x = np.ascontiguousarray(x)
        blas.add_squares(self.hessian, x)
        if self.cross is not None:
            blas.add_products(self.cross, np.ascontiguousarray(wanted), x)

    def merge(self, other: Moments) -> None:
        """Add the sums over other tokens."""
        for own, more in zip(self._sums(), other._sums(), strict=True):
            own += more
        self.weight += other.weight
        self.tokens += other.tokens

    def means(self) -> Moments:
        """The sums divided by the tokens' weights, in place."""
        for sums in self._sums():
            sums /= np.float32(self.weight or 1)
        mirror(self.hessian)
        return self

    def _sums(self) -> list[Floats]:
        sums = (self.hessian, self.cross, self.mean, self.wanted)
        return [each for each in sums if each is not None]

    def drift(self, weight: Floats | None) -> Floats:
        """The lack of x through ``weight`` (N, K; None: x itself) of what is wanted, times x'.
        (K or N, K)

        Raises ValueError if the sums are not ``crossed``.
        """
        if self.cross is None:
            raise ValueError("what is wanted was not multiplied by x'")
        given = self.hessian if weight is None else product(weight, self.hessian)
        lack: Floats = self.cross - given
        return lack


def correction(drift: Floats, factor: Floats) -> Floats:
    """The change of weights that makes them give what is wanted. (K or N, K)

    The least squares solution drift H^-1, with H = L L' of ``factor`` L (K, K): of the weights if
    ``drift`` is that of an output, else to be multiplied by them.
    """
    result = drift.copy()
    in_parts(lambda rows: blas.solve(factor.T, result[rows]), len(result))
    return result
