"""How a value's numbers are spread, gathered piece by piece, and the ranges chosen from it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from slmkit.ops import Floats
from slmkit_onnx.hexagon.lowering.encodings import Range

HALF = 2048  # bins on each side of zero
PERCENTILE = 99.999  # of the numbers, kept by the range of that name
SHARES = np.linspace(0.3, 1.0, 36)  # of the extremes, tried by "mse"
LEVELS = 65535


class Spread:
    """Extremes and a histogram around zero; its reach doubles when a number lies beyond."""

    def __init__(self, counted: bool) -> None:
        self.counted = counted  # extremes alone are found several times faster
        self.low = 0.0
        self.high = 0.0
        self.reach = 2.0**-10
        self.counts: NDArray[np.int64] = np.zeros(2 * HALF, dtype=np.int64)

    def add(self, values: Floats) -> None:
        """Count some more numbers."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        if self.counted:
            self._count(values)

    def _count(self, values: Floats) -> None:
        while self.reach < max(-self.low, self.high):
            self._double()
        places = values.ravel() * np.float32(HALF / self.reach) + np.float32(HALF)
        bins = np.minimum(places.astype(np.int32), 2 * HALF - 1)
        self.counts += np.bincount(bins, minlength=2 * HALF)

    def centers(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        middles = np.arange(2 * HALF, dtype=np.float64) + 0.5 - HALF
        return middles * (self.reach / HALF)

    def _double(self) -> None:
        pairs = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros_like(self.counts)
        self.counts[HALF // 2 : HALF // 2 + HALF] = pairs
        self.reach *= 2


def minmax(spread: Spread) -> Range:
    """Everything that was seen."""
    return spread.low, spread.high


def percentile(spread: Spread) -> Range:
    """All but the rarest numbers on each side; the edges of their bins."""
    total = spread.counts.sum()
    rest = total * (1 - PERCENTILE / 100)
    below = np.cumsum(spread.counts)
    width = spread.reach / HALF
    first = int(np.searchsorted(below, rest, side="right"))
    last = int(np.searchsorted(below, total - rest))
    low, high = (first - HALF) * width, (last + 1 - HALF) * width
    return max(spread.low, min(low, 0.0)), min(spread.high, max(high, 0.0))


def mean_squared_error(spread: Spread) -> Range:
    """The share of the extremes with the least clipping plus rounding error."""
    centers = spread.centers()
    errors = [_error(centers, spread, share) for share in SHARES]
    best = float(SHARES[int(np.argmin(errors))])
    return spread.low * best, spread.high * best


METHODS: dict[str, Callable[[Spread], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mean_squared_error,
}


def _error(centers: NDArray[np.float64], spread: Spread, share: float) -> float:
    low, high = spread.low * share, spread.high * share
    clipped = centers - np.clip(centers, low, high)
    step = (high - low) / LEVELS
    return float((spread.counts * (np.square(clipped) + step**2 / 12)).sum())
