"""Codes that a checkpoint brings, in another form of scales: the codes stay, scales are rounded.

An artifact may hold scales of 8 significant bits, or of two levels, where a checkpoint brings 11.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.ops import Floats
from slmkit.quant.codes import Bytes, Codes
from slmkit.quant.round_to_nearest import (
    CHANNEL_BITS,
    MULTIPLIERS,
    SCALE_BITS,
    SMALLEST,
    round_significand,
)
from slmkit.recipe.scheme import Scheme

Arrays = dict[str, NDArray[Any]]
STEPS = (0.88, 0.94, 1.0, 1.07, 1.14)  # neighbours: 4-bit significands are 1/15 to 1/8 apart


def is_form(own: Scheme, other: Scheme) -> bool:
    """Whether two schemes differ in the form of their scales alone."""
    return own.model_copy(update={"scales": other.scales}) == other


def scales_in(codes: Codes, scheme: Scheme) -> Arrays:
    """The scales of codes in the form of ``scheme``: tensors by their endings.

    Raises ValueError for a scheme that differs in more than its scales.
    """
    if not is_form(codes.scheme, scheme):
        raise ValueError(f"codes in {codes.scheme} do not become {scheme}")
    if codes.scheme == scheme or scheme.scales == "float16":
        return {"scales": codes.scales}
    if scheme.scales == "free":
        return {"scales": round_significand(codes.scales, SCALE_BITS)}
    channel, multipliers = _two_level(codes)
    return {"channel_scales": channel, "multipliers": multipliers}


def _two_level(codes: Codes) -> tuple[Floats, Bytes]:
    """The channel scales and multipliers whose weights differ least from the codes' own.

    The largest multiplier of each channel is 16 (QNN's form expects it).
    """
    rows, groups = codes.scales.shape
    signed = codes.codes.reshape(rows, groups, -1).astype(np.float32)
    signed -= codes.zero_points[:, :, None]
    energy = np.square(signed).sum(axis=2)
    largest = codes.scales.argmax(axis=1)[:, None]
    middle = round_significand(codes.scales.max(axis=1) / MULTIPLIERS, CHANNEL_BITS)
    least = np.full(rows, np.inf, np.float32)
    channel, multipliers = middle, np.full((rows, groups), MULTIPLIERS, np.float32)
    for step in STEPS:
        tried = round_significand(middle * np.float32(step), CHANNEL_BITS)
        nearest = np.clip(np.rint(codes.scales / tried[:, None]), 1, MULTIPLIERS)
        np.put_along_axis(nearest, largest, np.float32(MULTIPLIERS), axis=1)
        error = (energy * np.square(tried[:, None] * nearest - codes.scales)).sum(axis=1)
        better = error < least
        least = np.where(better, error, least)
        channel = np.where(better, tried, channel)
        multipliers = np.where(better[:, None], nearest, multipliers)
    return np.maximum(channel, SMALLEST), multipliers.astype(np.uint8)
