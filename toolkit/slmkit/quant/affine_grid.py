"""Grids with scales: the numbers of each group of inputs lie evenly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmkit.ops import Floats
from slmkit.quant.codes import Bytes
from slmkit.quant.grid import Arrays, Inputs, in_blocks
from slmkit.quant.round_to_nearest import MULTIPLIERS, Scales, joined, search_scales
from slmkit.recipe.scheme import Scheme
from slmkit.system.cores import in_parts

SEARCHED = 1 << 18  # weights whose scales are searched at once: 1 MB, within a core's cache


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

    def blocks(self, diagonal: Floats) -> list[NDArray[np.int64]]:
        """The inputs of a sweep: by falling ``diagonal``; where scales move, group by group."""
        if self.multipliers is None:
            return in_blocks(diagonal)
        groups = np.array_split(
            np.arange(len(diagonal)), range(self.group, len(diagonal), self.group)
        )
        groups.sort(key=lambda inputs: -diagonal[inputs].mean())
        return [inputs[np.argsort(-diagonal[inputs], kind="stable")] for inputs in groups]

    def move(
        self, inputs: NDArray[np.int64], codes: Bytes, slope: Floats, hessian: Floats
    ) -> Floats | None:
        """Move the multipliers of a group's two-level scales by one where that lowers the loss.

        The largest multiplier of a row stays: QNN's form expects it to be 16.
        """
        if self.multipliers is None or self.channel is None:
            return None
        group = int(inputs[0]) // self.group
        signed = codes.astype(np.float32) - self.zeros[group]
        along = np.einsum("kn,kn->n", slope, signed)
        curve = np.einsum("kn,kn->n", hessian @ signed, signed)
        old = self.multipliers[:, group].astype(np.float32)
        step = _step(old, self.channel, along, curve) * (self.multipliers.argmax(axis=1) != group)
        self.multipliers[:, group] = (old + step).astype(np.uint8)
        self.scales[group] = self.channel * self.multipliers[:, group]
        change: Floats = signed * (step * self.channel)
        return change

    def refit(self, error: Floats, hessian: Floats, codes: Bytes) -> None:
        """Nothing: scales move within a sweep."""

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
