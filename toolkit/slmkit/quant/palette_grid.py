"""Grids with palettes: any numbers, the same for some rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmkit.ops import Floats
from slmkit.quant.codes import Bytes
from slmkit.quant.grid import Arrays, Inputs, in_blocks
from slmkit.quant.palette import cluster, round_to_float16
from slmkit.recipe.scheme import Scheme

BATCH = 1024  # rows of a product with the Hessian: fewer read it too often
LEAST_CURVATURE = 1e-6  # of a palette's entry, as a share of all: an entry may be unused


@dataclass(eq=False)
class PaletteGrid:
    """A table of 2^bits numbers for each group of rows."""

    group: int  # rows
    palettes: Floats  # (groups, 2^bits), ascending
    own: NDArray[np.int64]  # (N,) index of each row's palette

    def __post_init__(self) -> None:
        self._find_middles()

    def _find_middles(self) -> None:
        middles = (self.palettes[:, 1:] + self.palettes[:, :-1]) / 2
        self.middles = np.ascontiguousarray(middles[self.own].T)  # (2^bits - 1, N)

    @classmethod
    def clustered(cls, scheme: Scheme, floats: Floats, weights: Floats) -> PaletteGrid:
        """Cluster a weight (N, K); ``weights`` (K,): how much an input's error counts."""
        rows, width = floats.shape
        group, bits = scheme.group_rows or rows, scheme.bits or 8
        whole, found = rows // group * group, []
        for part in (floats[:whole], floats[whole:]):  # the last group may be smaller
            if len(part):
                each = min(group, len(part))
                found.append(
                    cluster(part.reshape(-1, each * width), bits, np.tile(weights, each))[0]
                )
        return cls(group, np.concatenate(found), np.arange(rows) // group)

    def nearest(self, at: Inputs, numbers: Floats) -> tuple[Bytes, Floats]:
        """The codes next to ``numbers`` of any input, and what they stand for."""
        codes = (numbers[..., None, :] > self.middles).sum(axis=-2, dtype=np.uint8)
        return codes, self.numbers(at, codes)

    def numbers(self, at: Inputs, codes: Bytes) -> Floats:
        """The numbers that codes stand for."""
        found: Floats = self.palettes[self.own, codes]
        return found

    def part(self, rows: slice) -> PaletteGrid:
        """The grid of some rows, which hold whole groups."""
        return PaletteGrid(self.group, self.palettes, self.own[rows])

    def blocks(self, diagonal: Floats) -> list[NDArray[np.int64]]:
        """The inputs of a sweep, by falling ``diagonal``."""
        return in_blocks(diagonal)

    def move(
        self, inputs: NDArray[np.int64], codes: Bytes, slope: Floats, hessian: Floats
    ) -> Floats | None:
        """Nothing: a palette is of all inputs."""
        return None

    def refit(self, error: Floats, hessian: Floats, codes: Bytes) -> None:
        """Move each palette to the least squares solution under the Hessian, for these codes.

        A group's loss is quadratic in its palette p: with M (2^bits, K) the one-hot codes of a row,
        the sum over rows of (M'p - w) H (M'p - w)'.
        """
        slope, levels = hessian @ error, self.palettes.shape[1]
        palettes, rows = self.palettes.copy(), len(self.own)
        whole = rows // self.group * self.group
        step = max(1, BATCH // (self.group * levels)) * self.group
        spans = [slice(at, min(at + step, whole)) for at in range(0, whole, step)]
        for span in [*spans, *([slice(whole, rows)] if whole < rows else [])]:
            each = min(self.group, span.stop - span.start)
            found = _moves(codes[:, span], slope[:, span], hessian, levels, each)
            palettes[self.own[span.start] : self.own[span.stop - 1] + 1] -= found
        order = np.argsort(palettes, axis=1, kind="stable")
        place = np.argsort(order, axis=1, kind="stable").astype(np.uint8)
        old = self.palettes
        error -= old[self.own[:, None], codes.T].T
        np.copyto(codes, place[self.own[:, None], codes.T].T)
        ordered = np.take_along_axis(palettes, order, 1).astype(np.float64)
        self.palettes = round_to_float16(ordered)
        self._find_middles()
        error += self.palettes[self.own[:, None], codes.T].T

    def arrays(self) -> Arrays:
        """Palettes, as a codes file holds them."""
        return {"palettes": self.palettes.astype(np.float16)}

    def fillers(self) -> Bytes:
        """The codes (N,) that pad rows to whole bytes: nobody reads them."""
        return np.zeros(len(self.own), np.uint8)


def _moves(
    codes: Bytes, slope: Floats, hessian: Floats, levels: int, group: int
) -> NDArray[np.float64]:
    """How far palettes lie from the least squares solution. -> (groups, levels)

    ``codes``, ``slope`` (K, N): of whole groups of ``group`` rows; ``slope``: H times the error.
    """
    own = np.ascontiguousarray(codes.T)  # (N, K)
    rows, width = own.shape
    hot = (own[:, None, :] == np.arange(levels)[:, None]).astype(np.float32)
    product = (hot.reshape(-1, width) @ hessian).reshape(hot.shape)
    each = np.matmul(product, hot.transpose(0, 2, 1)).astype(np.float64)
    matrices = each.reshape(-1, group, levels, levels).sum(axis=1)
    place = own + levels * (np.arange(rows) // group)[:, None]
    sums = np.bincount(place.reshape(-1), slope.T.reshape(-1), rows // group * levels)
    ridge = np.trace(matrices, axis1=1, axis2=2) * LEAST_CURVATURE
    matrices += ridge[:, None, None] * np.eye(levels)
    found: NDArray[np.float64] = np.linalg.solve(matrices, sums.reshape(-1, levels, 1))[..., 0]
    return found
