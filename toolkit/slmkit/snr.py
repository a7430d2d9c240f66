"""Signal-to-noise ratio in decibels, with one rule for what is exact and what is not finite."""

from __future__ import annotations

import math

import numpy as np

from slmkit.ops import Floats

EXACT_DB = 300.0  # reported for numbers that are equal to the last bit


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two sums of squares: EXACT_DB without noise, -EXACT_DB without
    signal, NaN where one of them is not finite."""
    if noise == 0:
        return EXACT_DB
    if not math.isfinite(noise) or not math.isfinite(signal):
        return float("nan")
    return 10 * math.log10(signal / noise) if signal else -EXACT_DB


def snr_db(expected: Floats, got: Floats) -> float:
    """The ratio of ``expected`` to the difference, over all numbers."""
    signal = float(np.square(expected, dtype=np.float64).sum())
    return decibels(signal, float(np.square(got.astype(np.float64) - expected).sum()))
