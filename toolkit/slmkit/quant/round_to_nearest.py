"""Round to nearest, with a search for the scale that minimizes each group's squared error.

All arithmetic is element-wise float32 on arrays of (group, groups), summed along the first axis
in a fixed order: the same input gives the same codes on every CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.ops import Floats
from slmkit.quant.codes import Bytes, zero_point
from slmkit.recipe.scheme import Scheme

SCALE_BITS = 8  # significant bits of a scale: exact in bfloat16 (8) and float16 (11)
CHANNEL_BITS = 4  # of a channel scale; times a multiplier up to 16 (4 bits) gives 8
MULTIPLIERS = 16
SMALLEST = np.float32(2.0**-14)  # float16's smallest normal number
# Candidate scales as shares of the one that clips nothing. Four bits gain from clipping
# (best between 0.8 and 1); eight bits only from the rounding of the scale itself.
SHARES = {4: np.linspace(0.72, 1.08, 10), 8: np.linspace(0.98, 1.01, 4)}


@dataclass(frozen=True)
class Found:
    """Scales and zero points of (groups,) columns; for two-level also their factors."""

    scales: Floats
    zero_points: Floats
    channel_scales: Floats | None = None  # (N,)
    multipliers: Bytes | None = None  # (N, groups per row)


def search(columns: Floats, rows: int, scheme: Scheme) -> Found:
    """The best scales. ``columns``: (group, N * groups per row), ``rows``: N."""
    bits = scheme.bits or 8
    low, high = columns.min(axis=0), columns.max(axis=0)
    if scheme.symmetric:
        half = zero_point(scheme)
        whole = np.maximum(high / np.float32(half - 1), low / np.float32(-half))
        zeros = np.full_like(whole, half)
    else:
        low, high = np.minimum(low, 0), np.maximum(high, 0)  # zero must have a code: padding
        whole = (high - low) / np.float32((1 << bits) - 1)
        zeros = np.zeros_like(whole)
    shares = SHARES[bits] if scheme.method == "mse" else np.ones(1)
    errors = Errors(columns, bits)
    scales, zeros = _best_share(errors, whole, low, zeros, shares, scheme)
    if scheme.scales == "two-level":
        return _two_level(errors, scales.reshape(rows, -1), zeros)
    return Found(scales, zeros)


def encode(columns: Floats, scales: Floats, zeros: Floats, bits: int, out: Floats) -> Floats:
    """Nearest codes as float32, 0 .. 2^bits - 1, into ``out``. Shapes as ``columns``."""
    np.multiply(columns, np.float32(1) / scales, out=out)
    out += zeros
    np.rint(out, out=out)
    np.clip(out, np.float32(0), np.float32((1 << bits) - 1), out=out)
    return out


class Errors:
    """Squared errors of the same columns under one candidate after the other."""

    def __init__(self, columns: Floats, bits: int) -> None:
        self.columns = columns
        self.bits = bits
        self.scratch = np.empty_like(columns)  # a search allocates nothing else of this size

    def of(self, scales: Floats, zeros: Floats) -> Floats:
        """Sum over each group of (weight - dequantized)^2. (groups,)"""
        error = encode(self.columns, scales, zeros, self.bits, self.scratch)
        error -= zeros
        error *= scales
        error -= self.columns
        np.square(error, out=error)
        total: Floats = np.add.reduce(error, axis=0)
        return total


def round_significand(values: Floats, bits: int) -> Floats:
    """Round positive numbers to ``bits`` significant bits, at least float16's smallest normal."""
    fraction, exponent = np.frexp(np.maximum(values, SMALLEST))
    rounded = np.rint(np.ldexp(fraction, bits))
    scaled: Floats = np.ldexp(rounded, exponent - bits).astype(np.float32)
    return scaled


def _best_share(
    errors: Errors,
    whole: Floats,
    low: Floats,
    zeros: Floats,
    shares: NDArray[Any],
    scheme: Scheme,
) -> tuple[Floats, Floats]:
    best = (np.full_like(whole, np.inf), whole, zeros)
    for share in shares:
        scales = round_significand(whole * np.float32(share), SCALE_BITS)
        if not scheme.symmetric:
            most = (1 << errors.bits) - 1
            zeros = np.clip(np.rint(-low / scales), 0, most).astype(np.float32)
        best = _better(best, (errors.of(scales, zeros), scales, zeros))
    return best[1], best[2]


def _two_level(errors: Errors, free: Floats, zeros: Floats) -> Found:
    """Channel scales and multipliers near the free scales (N, groups per row).

    Each channel's largest multiplier is 16 (QNN's form expects it). Of the channel scales with a
    4-bit significand around free.max / 16, and of the multipliers below and above each free scale,
    the pair with the least squared error over the channel wins.
    """
    rows = len(free)
    middle = round_significand(free.max(axis=1) / MULTIPLIERS, CHANNEL_BITS)
    best = (np.full(rows, np.inf, np.float32), middle, np.ones_like(free))
    for step in (0.94, 1.0, 1.07):  # the neighbours: a 4-bit significand moves by 1/15 to 1/8
        channel = round_significand(middle * np.float32(step), CHANNEL_BITS)
        error, multipliers = _best_multipliers(errors, free, channel, zeros)
        best = _better(best, (error, channel, multipliers))
    _, channel, multipliers = best
    scales = (channel[:, None] * multipliers).reshape(-1)
    return Found(scales, zeros, channel, multipliers.astype(np.uint8))


def _best_multipliers(
    errors: Errors, free: Floats, channel: Floats, zeros: Floats
) -> tuple[Floats, Floats]:
    """Squared error per channel (N,) and multipliers (N, groups) for given channel scales."""
    largest = free.argmax(axis=1)[:, None]
    below = np.floor(free / channel[:, None])
    best = (np.full(free.size, np.inf, np.float32), np.ones(free.size, np.float32))
    for candidate in (below, below + 1):
        multipliers = np.clip(candidate, 1, MULTIPLIERS)
        np.put_along_axis(multipliers, largest, np.float32(MULTIPLIERS), axis=1)
        scales = (channel[:, None] * multipliers).reshape(-1)
        best = _better(best, (errors.of(scales, zeros), multipliers.reshape(-1)))
    return best[0].reshape(free.shape).sum(axis=1), best[1].reshape(free.shape)


def _better(best: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
    """Row by row the tuple with the smaller first entry; ties keep ``best``."""
    better = other[0] < best[0]
    return tuple(
        np.where(better[:, None] if new.ndim == 2 else better, new, old)
        for old, new in zip(best, other, strict=True)
    )
