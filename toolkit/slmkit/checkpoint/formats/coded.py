"""Integers with scales and zero points as formats store them, and the scheme that holds them.

A scale that is negative becomes positive with the integers turned around, which is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.formats.tensor_file import IMPORTED
from slmkit.ops import Floats
from slmkit.quant.codes import Codes, padded_width
from slmkit.recipe.scheme import Scheme

LEAST = 2.0**-14  # the least normal number of float16, the scale of a group of zeros


@dataclass(frozen=True)
class Coded:
    """Groups of integers: number = (integer - zero) * scale."""

    integers: NDArray[np.int16]  # (N, groups, group)
    scales: Floats  # (N, groups), of either sign
    zeros: Floats  # (N, groups)
    bits: int  # integers are 0 to 2^bits - 1


@dataclass(frozen=True)
class Traits:
    """Facts of some groups that decide which scheme holds them."""

    exact: bool = True  # whole zero points, scales in float16's normal range
    symmetric: bool = True
    eight_bits: bool = True  # scales have at most 8 significant bits

    def __and__(self, other: Traits) -> Traits:
        return Traits(
            self.exact and other.exact,
            self.symmetric and other.symmetric,
            self.eight_bits and other.eight_bits,
        )

    def scheme(self, bits: int, group: int | None) -> Scheme | None:
        """The scheme that holds such groups exactly; ``group`` None: one scale per channel."""
        if not self.exact or (bits == 8 and not self.symmetric):
            return None
        facts = {
            "encoding": "group-wise" if group else "per-channel",
            "bits": bits,
            "group_size": group,
            "symmetric": self.symmetric,
            "scales": "free" if self.eight_bits else "float16",
            "method": IMPORTED,
        }
        return Scheme.model_validate(facts)


def traits_of(coded: Coded) -> Traits:
    """The facts of some groups."""
    found = _positive(coded)
    top = (1 << coded.bits) - 1
    whole = (found.zeros == np.rint(found.zeros)) & (found.zeros >= 0) & (found.zeros <= top)
    fits = (found.integers >= 0) & (found.integers <= top)
    mantissas, _ = np.frexp(found.scales)
    with np.errstate(over="ignore"):
        halves = found.scales.astype(np.float16).astype(np.float32)
    return Traits(
        bool(whole.all() and fits.all() and (found.scales >= LEAST).all())
        and bool(np.isfinite(found.scales).all() and (halves == found.scales).all()),
        bool((found.zeros == 1 << (coded.bits - 1)).all()),
        bool((mantissas * 256 == np.rint(mantissas * 256)).all()),
    )


def codes_in(coded: Coded, scheme: Scheme, width: int) -> Codes:
    """Groups whose ``traits_of`` allow the scheme, in its form.

    ``width``: inputs of the matrix; integers after them, and codes that pad a row to whole groups
    or bytes, are zero points.
    """
    found = _positive(coded)
    codes = found.integers.reshape(len(found.integers), -1)
    padding = padded_width(scheme, width) - codes.shape[1]
    if padding:
        filler = found.zeros[:, -1:].astype(np.int16)
        codes = np.concatenate([codes, np.repeat(filler, padding, axis=1)], axis=1)
    return Codes(scheme, width, codes.astype(np.uint8), found.scales, found.zeros.astype(np.uint8))


def _positive(coded: Coded) -> Coded:
    """The same numbers with scales above zero."""
    top, middle = (1 << coded.bits) - 1, 1 << (coded.bits - 1)
    negative, nothing = coded.scales < 0, coded.scales == 0
    # 8 bits turn around their middle, 128, and stay symmetric; -128 then has no place.
    sum_ = top if coded.bits == 4 else 2 * middle
    integers = np.where(negative[..., None], sum_ - coded.integers, coded.integers)
    zeros = np.where(negative, sum_ - coded.zeros, coded.zeros)
    # A group of zeros: every integer is the zero point.
    empty = nothing & np.isfinite(coded.zeros)
    integers = np.where(empty[..., None], middle, integers).astype(np.int16)
    return Coded(
        integers,
        np.where(empty, LEAST, np.abs(coded.scales)).astype(np.float32),
        np.where(empty, middle, zeros).astype(np.float32),
        coded.bits,
    )
