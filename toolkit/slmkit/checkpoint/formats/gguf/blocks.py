"""Blocks of GGUF's types as codes: integers, one scale for 32 of them, zero points.

Layouts: ggml-common.h of llama.cpp. A scale that is negative becomes positive with the integers
turned around, which is exact. Types with two levels of scales (Q4_K and its like) need more bits
than a float16 has: they have no such form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.formats.gguf.library import library
from slmkit.checkpoint.formats.tensor_file import IMPORTED
from slmkit.ops import Floats
from slmkit.quant.codes import Bytes, Codes
from slmkit.recipe.scheme import Scheme

GROUP = 32  # numbers with one scale, in all types below
LEAST = 2.0**-14  # the least normal number of float16, the scale of a block of zeros
Raw = NDArray[np.uint8]  # (N, blocks, bytes)


@dataclass(frozen=True)
class Coded:
    """Blocks as integers: number = (integer - zero) * scale."""

    integers: NDArray[np.int16]  # (N, blocks, 32)
    scales: Floats  # (N, blocks), of either sign
    zeros: Floats  # (N, blocks)
    bits: int  # integers are 0 to 2^bits - 1


def q4_0(raw: Raw) -> Coded:
    """float16 scale d, 16 bytes: number = d * (q - 8)."""
    scales = _half(raw[..., :2])
    return Coded(_nibbles(raw[..., 2:]), scales, np.full_like(scales, 8), 4)


def q4_1(raw: Raw) -> Coded:
    """float16 scale d and minimum m, 16 bytes: number = d * q + m. The zero point is -m / d."""
    scales, least = _half(raw[..., :2]), _half(raw[..., 2:4])
    with np.errstate(divide="ignore", invalid="ignore"):
        zeros = np.where(scales == 0, np.where(least == 0, 0, np.nan), -least / scales)
    return Coded(_nibbles(raw[..., 4:]), scales, zeros.astype(np.float32), 4)


def q5_0(raw: Raw) -> Coded:
    """float16 scale d, 32 high bits, 16 bytes: number = d * (q - 16), in codes of 8 bits."""
    high = np.unpackbits(raw[..., 2:6], axis=-1, bitorder="little").astype(np.int16)
    scales = _half(raw[..., :2])
    integers = _nibbles(raw[..., 6:]) + (high << 4) + 112
    return Coded(integers, scales, np.full_like(scales, 128), 8)


def q8_0(raw: Raw) -> Coded:
    """float16 scale d, 32 signed bytes: number = d * q."""
    scales = _half(raw[..., :2])
    integers = raw[..., 2:].view(np.int8).astype(np.int16) + 128
    return Coded(integers, scales, np.full_like(scales, 128), 8)


def iq4_nl(raw: Raw) -> Coded:
    """float16 scale d, 16 bytes: number = d * table[q], with a table of signed bytes."""
    table = np.array(library("gguf.quants").IQ4_NL.kvalues, np.int16)
    scales = _half(raw[..., :2])
    integers = table[_nibbles(raw[..., 2:])] + np.int16(128)
    return Coded(integers, scales, np.full_like(scales, 128), 8)


DECODERS: dict[str, Callable[[Raw], Coded]] = {
    "Q4_0": q4_0,
    "Q4_1": q4_1,
    "Q5_0": q5_0,
    "Q8_0": q8_0,
    "IQ4_NL": iq4_nl,
}


def likely_scheme(kind: str) -> Scheme | None:
    """The scheme that holds a type's codes whatever their scales are, which are not read; None for
    types that may have none."""
    if kind not in DECODERS or kind == "Q4_1":
        return None
    bits = 4 if kind == "Q4_0" else 8
    return Traits(symmetric=bits == 8, eight_bits=False).scheme(bits)


@dataclass(frozen=True)
class Traits:
    """Facts of some blocks that decide which scheme holds them."""

    exact: bool = True  # whole zero points, scales in float16's normal range
    symmetric: bool = True
    eight_bits: bool = True  # scales have at most 8 significant bits

    def __and__(self, other: Traits) -> Traits:
        return Traits(
            self.exact and other.exact,
            self.symmetric and other.symmetric,
            self.eight_bits and other.eight_bits,
        )

    def scheme(self, bits: int) -> Scheme | None:
        """The scheme that holds such blocks exactly."""
        if not self.exact or (bits == 8 and not self.symmetric):
            return None
        return Scheme(
            encoding="group-wise",
            bits=4 if bits == 4 else 8,
            group_size=GROUP,
            symmetric=self.symmetric,
            scales="free" if self.eight_bits else "float16",
            method=IMPORTED,
        )


def traits_of(coded: Coded) -> Traits:
    """The facts of some blocks."""
    found = _positive(coded)
    top = (1 << coded.bits) - 1
    whole = (found.zeros == np.rint(found.zeros)) & (found.zeros >= 0) & (found.zeros <= top)
    fits = (found.integers >= 0) & (found.integers <= top)
    mantissas, _ = np.frexp(found.scales)
    return Traits(
        bool(whole.all() and fits.all() and (found.scales >= LEAST).all())
        and bool(np.isfinite(found.scales).all()),
        bool((found.zeros == 1 << (coded.bits - 1)).all()),
        bool((mantissas * 256 == np.rint(mantissas * 256)).all()),
    )


def codes_in(coded: Coded, scheme: Scheme) -> Codes:
    """Blocks whose ``traits_of`` allow the scheme, in its form."""
    found = _positive(coded)
    rows, blocks, _ = found.integers.shape
    return Codes(
        scheme,
        blocks * GROUP,
        found.integers.reshape(rows, -1).astype(np.uint8),
        found.scales,
        found.zeros.astype(np.uint8),
    )


def _positive(coded: Coded) -> Coded:
    """The same numbers with scales above zero."""
    top, middle = (1 << coded.bits) - 1, 1 << (coded.bits - 1)
    negative, nothing = coded.scales < 0, coded.scales == 0
    # 8 bits turn around their middle, 128, and stay symmetric; -128 then has no place.
    sum_ = top if coded.bits == 4 else 2 * middle
    integers = np.where(negative[..., None], sum_ - coded.integers, coded.integers)
    zeros = np.where(negative, sum_ - coded.zeros, coded.zeros)
    # A block of zeros: every integer is the zero point.
    empty = nothing & np.isfinite(coded.zeros)
    integers = np.where(empty[..., None], middle, integers).astype(np.int16)
    return Coded(
        integers,
        np.where(empty, LEAST, np.abs(coded.scales)).astype(np.float32),
        np.where(empty, middle, zeros).astype(np.float32),
        coded.bits,
    )


def _half(raw: Raw) -> Floats:
    """(N, blocks, 2) -> (N, blocks) float32."""
    halves: Floats = np.ascontiguousarray(raw).view("<f2")[..., 0].astype(np.float32)
    return halves


def _nibbles(raw: Raw) -> NDArray[np.int16]:
    """16 bytes as 32 integers: the low halves, then the high halves."""
    packed: Bytes = np.ascontiguousarray(raw)
    return np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.int16)
