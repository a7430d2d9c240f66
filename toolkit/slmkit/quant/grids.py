"""Grids: the numbers that one matrix can hold under its scheme, with scales or palettes fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slmkit.ops import Floats
from slmkit.quant.codes import Bytes
from slmkit.quant.palette import cluster, round_to_float16
from slmkit.quant.round_to_nearest import MULTIPLIERS, Scales, joined, search_scales
from slmkit.recipe.scheme import Scheme
from slmkit.system.cores import in_parts

BATCH = 1024  # rows of a product with the Hessian: fewer read it too often
INPUTS = 256  # the same, of the groups whose multipliers are chosen one after another
SEARCHED = 1 << 18  # weights whose scales are searched at once: 1 MB, within a core's cache
LEAST_CURVATURE = 1e-6  # of a palette's entry, as a share of all: an entry may be unused
Inputs = int | NDArray[np.int64]  # an input, or some (n,)
Arrays = dict[str, NDArray[Any]]  # what a codes file holds beside the codes, by ending of the name


class Grid(Protocol):
    """Codes of N rows and K inputs, chosen an input at a time, or several."""

    def nearest(self, at: Inputs, numbers: Floats) -> tuple[Bytes, Floats]:
        """The codes next to ``numbers`` (N,) of input ``at``, and what they stand for.

        Of several inputs (n,), ``numbers`` is (n, N).
        """
        ...

    def numbers(self, at: Inputs, codes: Bytes) -> Floats:
        """The numbers that codes (N,) of input ``at``, or (n, N) of several, stand for."""
        ...

    def part(self, rows: slice) -> Grid:
        """The grid of some rows."""
        ...

    def refit(self, error: Floats, hessian: Floats, codes: Bytes) -> None:
        """Change scales or palettes so that the same codes lose less.

        ``error``: dequantized minus wanted (K, N); ``hessian``: (K, K); ``codes``: (K, N). The
        first and the last are changed in place.
        """
        ...

    def arrays(self) -> Arrays:
        """Scales, zero points or palettes, as a codes file holds them."""
        ...

    def fillers(self) -> Bytes:
        """The codes (N,) that pad rows to whole groups."""
        ...


@dataclass(eq=False)
class AffineGrid:
    """Scales and zero points per row and group of inputs: (code - zero point) * scale."""

    scheme: Scheme
    group: int  # inputs
    scales: Floats  # (groups, N)
    zeros: Floats  # (groups, N)
    channel: Floats | None  # (N,) of two-level scales
    multipliers: Bytes | None  # (N, groups) of two-level scales

    @classmethod
    def searched(cls, scheme: Scheme, floats: Floats, weights: Floats) -> AffineGrid:
        """Search the scales of a weight (N, K), as rounding to nearest does; ``weights`` (K,): how
        much an input's error counts."""
        rows, width = floats.shape
        group = scheme.group_size or width
        more = -width % group
        counts = np.pad(weights / weights.mean(), (0, more)).astype(np.float32)
        by_input = np.ascontiguousarray(counts.reshape(-1, group).T)
        found: dict[int, Scales] = {}

        def search(part: slice) -> None:
            whole = np.pad(floats[part], ((0, 0), (0, more))) if more else floats[part]
            columns = np.ascontiguousarray(whole.reshape(-1, group).T)
            found[part.start] = search_scales(columns, len(whole), scheme, by_input)

        in_parts(search, rows, max(1, SEARCHED // width))
        best = joined([found[first] for first in sorted(found)])
        scales, zeros = (
            np.ascontiguousarray(each.reshape(rows, -1).T)
            for each in (best.scales, best.zero_points)
        )
        return cls(scheme, group, scales, zeros, best.channel_scales, best.multipliers)

    def nearest(self, at: Inputs, numbers: Floats) -> tuple[Bytes, Floats]:
        """The codes next to ``numbers`` of input ``at``, and what they stand for."""
        scale, zero = self.scales[at // self.group], self.zeros[at // self.group]
        codes = numbers / scale  # then in place: calls cost more than arithmetic here
        codes += zero
        np.rint(codes, out=codes)
        np.maximum(codes, np.float32(0), out=codes)
        np.minimum(codes, np.float32((1 << (self.scheme.bits or 8)) - 1), out=codes)
        stored = codes.astype(np.uint8)
        codes -= zero
        codes *= scale
        return stored, codes

    def numbers(self, at: Inputs, codes: Bytes) -> Floats:
        """The numbers that codes of input ``at`` stand for."""
        zero = self.zeros[at // self.group]
        result: Floats = (codes.astype(np.float32) - zero) * self.scales[at // self.group]
        return result

    def part(self, rows: slice) -> AffineGrid:
        """The grid of some rows; a change of its scales is one of the whole grid's."""
        channel = None if self.channel is None else self.channel[rows]
        multipliers = None if self.multipliers is None else self.multipliers[rows]
        scales, zeros = self.scales[:, rows], self.zeros[:, rows]
        return AffineGrid(self.scheme, self.group, scales, zeros, channel, multipliers)

    def refit(self, error: Floats, hessian: Floats, codes: Bytes) -> None:
        """Move the multipliers of two-level scales by one where that lowers the loss.

        The largest multiplier of a row stays: QNN's form expects it to be 16.
        """
        if self.multipliers is not None:
            own = self.multipliers
            in_parts(lambda rows: self.part(rows)._move(rows, error, hessian, codes), len(own))

    def _move(self, rows: slice, error: Floats, hessian: Floats, codes: Bytes) -> None:
        """``refit`` of this part: ``rows`` of the arguments, group by group."""
        if self.multipliers is None or self.channel is None:
            return
        largest, width = self.multipliers.argmax(axis=1), len(error)
        own = np.ascontiguousarray(error[:, rows])
        together = max(1, INPUTS // self.group) * self.group
        for group in range(len(self.scales)):
            span = slice(group * self.group, min((group + 1) * self.group, width))
            inside = span.start % together
            if inside == 0:  # one product for several groups
                first, stop = span.start, min(span.start + together, width)
                slopes = hessian[first:stop] @ own
            signed = codes[span, rows].astype(np.float32) - self.zeros[group]
            slope = np.einsum("kn,kn->n", slopes[inside : inside + len(signed)], signed)
            curve = np.einsum("kn,kn->n", hessian[span, span] @ signed, signed)
            old = self.multipliers[:, group].astype(np.float32)
            step = _step(old, self.channel, slope, curve) * (largest != group)
            self.multipliers[:, group] = (old + step).astype(np.uint8)
            self.scales[group] = self.channel * self.multipliers[:, group]
            change = signed * (step * self.channel)
            own[span] += change
            slopes[inside + len(signed) :] += hessian[span.stop : stop, span] @ change
        error[:, rows] = own

    def arrays(self) -> Arrays:
        """Scales and zero points, as a codes file holds them."""
        found: Arrays = {}
        if self.multipliers is not None and self.channel is not None:
            found["channel_scales"] = self.channel.astype(np.float16)
            found["multipliers"] = self.multipliers
        else:
            found["scales"] = np.ascontiguousarray(self.scales.T).astype(np.float16)
        if not self.scheme.symmetric:
            found["zero_points"] = np.ascontiguousarray(self.zeros.T).astype(np.uint8)
        return found

    def fillers(self) -> Bytes:
        """The codes (N,) that pad rows to whole groups: they stand for 0."""
        fillers: Bytes = self.zeros[-1].astype(np.uint8)
        return fillers


def _step(multipliers: Floats, channel: Floats, slope: Floats, curve: Floats) -> Floats:
    """By how much, of -1, 0 and 1, to move the multipliers (N,) of a group so that it loses least.

    ``slope``, ``curve`` (N,): of the loss, by what the group's signed codes are multiplied with.
    """
    best, step = np.zeros_like(multipliers), np.zeros_like(multipliers)
    for way in (np.float32(-1), np.float32(1)):
        change, moved = way * channel, multipliers + way
        loss = 2 * change * slope + np.square(change) * curve
        better = (loss < best) & (moved >= 1) & (moved <= MULTIPLIERS)
        best, step = np.where(better, loss, best), np.where(better, way, step)
    return step


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


def grid_of(scheme: Scheme, floats: Floats, weights: Floats) -> Grid:
    """The grid of a weight (N, K) under a scheme; ``weights`` (K,): how much inputs count."""
    if scheme.encoding == "palette":
        return PaletteGrid.clustered(scheme, floats, weights)
    return AffineGrid.searched(scheme, floats, weights)
