"""Histograms of activations, and the methods that choose quantization ranges from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from slmkit.ops import Floats
from slmkit_onnx.hexagon.lowering.encodings import Range

BINS_PER_SIDE = 2048  # bins on each side of zero
PERCENTILE = 99.999  # percent of the numbers on the inner side of either end
MSE_FRACTIONS = np.linspace(0.3, 1.0, 36)  # of minimum and maximum, tried by the method "mse"
BLOCK = 1 << 20  # numbers that are counted at a time
LEVELS = 65535  # steps of uint16


class Histogram:
    """Minimum, maximum and, with bins, a histogram symmetric around zero.

    Its limit doubles whenever a number lies beyond it, so that no number is lost.
    """

    def __init__(self, with_bins: bool) -> None:
        self.with_bins = with_bins  # minimum and maximum alone are several times faster
        self.low = 0.0
        self.high = 0.0
        self.limit = 2.0**-10  # the bins cover -limit to limit
        self.counts: NDArray[np.int64] = np.zeros(2 * BINS_PER_SIDE, dtype=np.int64)

    def add(self, values: Floats) -> None:
        """Add the numbers of an array of any shape."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        if self.with_bins:
            self._count(values)

    def _count(self, values: Floats) -> None:
        while self.limit < max(-self.low, self.high):
            self._double_limit()
        scale, flat = np.float32(BINS_PER_SIDE / self.limit), values.ravel()
        for at in range(0, len(flat), BLOCK):
            positions = flat[at : at + BLOCK] * scale + np.float32(BINS_PER_SIDE)
            bins = np.minimum(positions.astype(np.int32), 2 * BINS_PER_SIDE - 1)
            self.counts += np.bincount(bins, minlength=2 * BINS_PER_SIDE)

    def bin_centers(self) -> NDArray[np.float64]:
        """The center of each bin."""
        positions = np.arange(2 * BINS_PER_SIDE, dtype=np.float64) + 0.5 - BINS_PER_SIDE
        return positions * (self.limit / BINS_PER_SIDE)

    def _double_limit(self) -> None:
        """Merge pairs of bins into the inner half."""
        pairs = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros_like(self.counts)
        self.counts[BINS_PER_SIDE // 2 : BINS_PER_SIDE // 2 + BINS_PER_SIDE] = pairs
        self.limit *= 2


def minmax(histogram: Histogram) -> Range:
    """Minimum and maximum."""
    return histogram.low, histogram.high


def percentile(histogram: Histogram) -> Range:
    """Edges of the bins outside which 0.001 % of the numbers lie on each side."""
    total = histogram.counts.sum()
    tail = total * (1 - PERCENTILE / 100)
    cumulative = np.cumsum(histogram.counts)
    width = histogram.limit / BINS_PER_SIDE
    first = int(np.searchsorted(cumulative, tail, side="right"))
    last = int(np.searchsorted(cumulative, total - tail))
    low, high = (first - BINS_PER_SIDE) * width, (last + 1 - BINS_PER_SIDE) * width
    return max(histogram.low, min(low, 0.0)), min(histogram.high, max(high, 0.0))


def mean_squared_error(histogram: Histogram) -> Range:
    """The fraction of minimum and maximum with the least clipping plus rounding error."""
    centers = histogram.bin_centers()
    errors = [_quantization_error(centers, histogram, fraction) for fraction in MSE_FRACTIONS]
    best = float(MSE_FRACTIONS[int(np.argmin(errors))])
    return histogram.low * best, histogram.high * best


METHODS: dict[str, Callable[[Histogram], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mean_squared_error,
}


def _quantization_error(
    centers: NDArray[np.float64], histogram: Histogram, fraction: float
) -> float:
    """Sum of squared clipping errors, and step^2 / 12 for each rounding."""
    low, high = histogram.low * fraction, histogram.high * fraction
    clipping = centers - np.clip(centers, low, high)
    step = (high - low) / LEVELS
    return float((histogram.counts * (np.square(clipping) + step**2 / 12)).sum())
