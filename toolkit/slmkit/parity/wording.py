"""Numbers of a comparison in words, for tables and reports."""

from __future__ import annotations

import math

from slmkit.snr import EXACT_DB


def decibels_text(value: float) -> str:
    """A ratio in dB with one digit, "exact" for equality, "NaN" where numbers are not finite."""
    if math.isnan(value):
        return "NaN"
    return "exact" if value >= EXACT_DB else f"{value:.1f}"


def number_text(value: float) -> str:
    """Two significant digits: 1.2e-5, not 1.2e-05."""
    if math.isnan(value):
        return "NaN"
    digits, _, power = f"{value:.2g}".partition("e")
    return f"{digits}e{int(power)}" if power else digits
