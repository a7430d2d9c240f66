"""Round to nearest, with a search for the scale that minimizes each group's squared error.

All arithmetic is element-wise float32 on arrays of (group, groups), summed along the first axis
in a fixed order: the same input gives the same codes on every CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.ops import Floats
from slmkit.quant.codes import Bytes, zero_point
from slmkit.recipe.scheme import Scheme

SCALE_BITS = 8  # significant bits of a scale: exact in bfloat16 (8) and float16 (11)
CHANNEL_BITS = 4  # significant bits of a channel scale; times a multiplier up to 16: 8 bits
MULTIPLIERS = 16
SMALLEST = np.float32(2.0**-14)  # float16's smallest normal number
# Candidate scales, as factors of the smallest one that clips nothing. Four bits gain from clipping
# (best between 0.8 and 1); eight bits only from the rounding of the scale itself.
FACTORS = {4: np.linspace(0.72, 1.08, 10), 8: np.linspace(0.98, 1.01, 4)}


@dataclass(frozen=True)
class Scales:
    """Scales and zero points of all groups; for two-level also the factors of the scales."""

    scales: Floats  # (N * groups per row,)
    zero_points: Floats  # (N * groups per row,)
    channel_scales: Floats | None = None  # (N,)
    multipliers: Bytes | None = None  # (N, groups per row)


def joined(parts: Sequence[Scales]) -> Scales:
    """Scales of all rows, out of those of consecutive parts."""

    def together(arrays: Sequence[Any]) -> Any:
        return None if arrays[0] is None else np.concatenate(arrays)

    names = [each.name for each in fields(Scales)]
    return Scales(*(together([getattr(part, name) for part in parts]) for name in names))


def search_scales(
    columns: Floats, rows: int, scheme: Scheme, weights: Floats | None = None
) -> Scales:
    """The scales with the least squared error among the candidates.

    ``columns``: a group per column, (group, N * groups per row); ``rows``: N; ``weights``: how much
    an input's error counts, (group, groups per row); None: all count alike.
    """
    bits = scheme.bits or 8
    low, high = columns.min(axis=0), columns.max(axis=0)
    if scheme.symmetric:
        half = zero_point(scheme)
        unclipped = np.maximum(high / np.float32(half - 1), low / np.float32(-half))
        zeros = np.full_like(unclipped, half)
    else:
        low, high = np.minimum(low, 0), np.maximum(high, 0)  # padding needs a code for 0
        unclipped = (high - low) / np.float32((1 << bits) - 1)
        zeros = np.zeros_like(unclipped)
    factors = np.ones(1) if scheme.method == "absmax" else FACTORS[bits]
    errors = SquaredErrors(columns, bits, weights)
    scales, zeros = _best_factor(errors, unclipped, low, zeros, factors, scheme)
    if scheme.scales == "two-level":
        return _two_level(errors, scales.reshape(rows, -1), zeros)
    return Scales(scales, zeros)


def encode(columns: Floats, scales: Floats, zeros: Floats, bits: int, out: Floats) -> Floats:
    """Write the nearest codes, 0 .. 2^bits - 1 as float32, to ``out``. Shape of ``columns``."""
    np.multiply(columns, np.float32(1) / scales, out=out)
    out += zeros
    np.rint(out, out=out)
    np.clip(out, np.float32(0), np.float32((1 << bits) - 1), out=out)
    return out


class SquaredErrors:
    """Squared quantization errors of the same columns under candidate scales."""

    def __init__(self, columns: Floats, bits: int, weights: Floats | None = None) -> None:
        self.columns = columns
        self.bits = bits
        self.weights = weights  # (group, groups per row)
        self.scratch = np.empty_like(columns)  # shared by all candidates of a search

    def of(self, scales: Floats, zeros: Floats) -> Floats:
        """Sum over each group of (weight - dequantized)^2, weighted. (groups,)"""
        error = encode(self.columns, scales, zeros, self.bits, self.scratch)
        error -= zeros
        error *= scales
        error -= self.columns
        np.square(error, out=error)
        if self.weights is not None:
            by_row = error.reshape(len(error), -1, self.weights.shape[1])
            by_row *= self.weights[:, None, :]
        total: Floats = np.add.reduce(error, axis=0)
        return total


def round_significand(values: Floats, bits: int) -> Floats:
    """Round positive numbers to ``bits`` significant bits, at least float16's smallest normal."""
    fraction, exponent = np.frexp(np.maximum(values, SMALLEST))
    rounded = np.rint(np.ldexp(fraction, bits))
    scaled: Floats = np.ldexp(rounded, exponent - bits).astype(np.float32)
    return scaled


def _best_factor(
    errors: SquaredErrors,
    unclipped: Floats,
    low: Floats,
    zeros: Floats,
    factors: NDArray[Any],
    scheme: Scheme,
) -> tuple[Floats, Floats]:
    """For each group the scale, and its zero point, among ``unclipped`` times ``factors``."""
    best = (np.full_like(unclipped, np.inf), unclipped, zeros)
    for factor in factors:
        scales = round_significand(unclipped * np.float32(factor), SCALE_BITS)
        if not scheme.symmetric:
            largest = (1 << errors.bits) - 1
            zeros = np.clip(np.rint(-low / scales), 0, largest).astype(np.float32)
        best = _keep_better(best, (errors.of(scales, zeros), scales, zeros))
    return best[1], best[2]


def _two_level(errors: SquaredErrors, free: Floats, zeros: Floats) -> Scales:
    """Channel scales and multipliers near the free scales (N, groups per row).

    Each channel's largest multiplier is 16 (QNN's form expects it). Of the channel scales with a
    4-bit significand around free.max / 16, and of the multipliers below and above each free scale,
    the pair with the least squared error over the channel wins.
    """
    rows = len(free)
    middle = round_significand(free.max(axis=1) / MULTIPLIERS, CHANNEL_BITS)
    best = (np.full(rows, np.inf, np.float32), middle, np.ones_like(free))
    for step in (0.94, 1.0, 1.07):  # neighbours: 4-bit significands are 1/15 to 1/8 apart
        channel = round_significand(middle * np.float32(step), CHANNEL_BITS)
        error, multipliers = _best_multipliers(errors, free, channel, zeros)
        best = _keep_better(best, (error, channel, multipliers))
    _, channel, multipliers = best
    scales = (channel[:, None] * multipliers).reshape(-1)
    return Scales(scales, zeros, channel, multipliers.astype(np.uint8))


def _best_multipliers(
    errors: SquaredErrors, free: Floats, channel: Floats, zeros: Floats
) -> tuple[Floats, Floats]:
    """Squared error (N,) and best multipliers (N, groups) for the channel scales (N,)."""
    largest = free.argmax(axis=1)[:, None]
    below = np.floor(free / channel[:, None])
    best = (np.full(free.size, np.inf, np.float32), np.ones(free.size, np.float32))
    for candidate in (below, below + 1):
        multipliers = np.clip(candidate, 1, MULTIPLIERS)
        np.put_along_axis(multipliers, largest, np.float32(MULTIPLIERS), axis=1)
        scales = (channel[:, None] * multipliers).reshape(-1)
        best = _keep_better(best, (errors.of(scales, zeros), multipliers.reshape(-1)))
    return best[0].reshape(free.shape).sum(axis=1), best[1].reshape(free.shape)


def _keep_better(best: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
    """Row by row the entries of the tuple with the smaller error (entry 0); ties keep ``best``."""
    better = other[0] < best[0]
    return tuple(
        np.where(better[:, None] if new.ndim == 2 else better, new, old)
        for old, new in zip(best, other, strict=True)
    )
