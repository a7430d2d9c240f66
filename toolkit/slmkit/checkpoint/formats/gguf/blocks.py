"""Blocks of GGUF's types as codes: integers, one scale for 32 of them, zero points.

Layouts: ggml-common.h of llama.cpp. Types with two levels of scales (Q4_K and its like) need more
bits than a float16 has: they have no such form.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.formats.coded import Coded, Traits
from slmkit.checkpoint.formats.gguf.library import library
from slmkit.ops import Floats
from slmkit.quant.codes import Bytes
from slmkit.recipe.scheme import Scheme

GROUP = 32  # numbers with one scale, in all types below
Raw = NDArray[np.uint8]  # (N, blocks, bytes)


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
    return Traits(symmetric=bits == 8, eight_bits=False).scheme(bits, GROUP)


def _half(raw: Raw) -> Floats:
    """(N, blocks, 2) -> (N, blocks) float32."""
    halves: Floats = np.ascontiguousarray(raw).view("<f2")[..., 0].astype(np.float32)
    return halves


def _nibbles(raw: Raw) -> NDArray[np.int16]:
    """16 bytes as 32 integers: the low halves, then the high halves."""
    packed: Bytes = np.ascontiguousarray(raw)
    return np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.int16)
