"""Codes as blocks of GGUF's types: exactly, or not at all.

4 bits, symmetric: Q4_0. 4 bits with zero points of 7 and 8 too: there a scale is negative. Other
zero points: Q4_1, where float16 holds -zero * scale. 8 bits, symmetric: Q8_0. Groups of 64 and 128
and whole rows repeat their scale in each block of 32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.formats.gguf.blocks import GROUP
from slmkit.errors import RefusedError
from slmkit.ops import Floats
from slmkit.quant.codes import Bytes, Codes
from slmkit.recipe.scheme import Scheme

FLOAT16 = "F16"
REMEDY = "export from a bundle of the recipe int4 or int8, or give such weights another scheme"


def kind_of(name: str, scheme: Scheme, width: int) -> str:
    """The type that holds a matrix under a scheme; Q4_0 may turn out to be Q4_1. Raises
    RefusedError."""
    if scheme.encoding == "float16":
        return FLOAT16
    if scheme.encoding == "palette":
        raise RefusedError(f"GGUF has no palettes, which {name} has: {scheme}", REMEDY)
    if width % GROUP:
        raise RefusedError(
            f"GGUF holds whole blocks of {GROUP} inputs, and {name} has {width}", REMEDY
        )
    if scheme.bits == 8 and not scheme.symmetric:
        raise RefusedError(f"GGUF has no 8-bit codes with zero points, as {name} has", REMEDY)
    return "Q8_0" if scheme.bits == 8 else "Q4_0"


def needs_minimum(codes: Codes) -> bool:
    """Whether 4-bit codes have zero points that a negative scale does not express."""
    return not np.isin(codes.zero_points, (7, 8)).all()


def blocks(name: str, kind: str, codes: Codes) -> Bytes:
    """Rows of a matrix as bytes of a type, (N, K / 32 * size). Raises RefusedError if float16 does
    not hold what the type keeps in it."""
    rows, width = codes.codes.shape[0], codes.width
    integers = codes.codes[:, :width].reshape(rows, -1, GROUP)
    repeats = -(-codes.codes.shape[1] // codes.scales.shape[1]) // GROUP
    scales = np.repeat(codes.scales, repeats, axis=1)[:, : integers.shape[1]]
    zeros = np.repeat(codes.zero_points, repeats, axis=1)[:, : integers.shape[1]]
    if kind == "Q8_0":
        signed = (integers.astype(np.int16) - 128).astype(np.int8)
        parts = [_half(name, scales), signed.view(np.uint8)]
    elif kind == "Q4_0":
        turned = zeros == 7
        integers = np.where(turned[..., None], 15 - integers, integers)
        parts = [_half(name, np.where(turned, -scales, scales)), _nibbles(integers)]
    else:
        least = -zeros.astype(np.float32) * scales
        parts = [_half(name, scales), _half(name, least), _nibbles(integers)]
    whole: Bytes = np.concatenate(parts, axis=-1).reshape(rows, -1)
    return whole


def _half(name: str, values: Floats) -> NDArray[np.uint8]:
    """(N, blocks) -> (N, blocks, 2)."""
    halves = values.astype("<f2")
    if not np.array_equal(halves.astype(np.float32), values):
        raise RefusedError(f"float16 does not hold the scales or minimums of {name}", REMEDY)
    return halves[..., None].view(np.uint8)


def _nibbles(integers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """32 integers as 16 bytes: the first half in the low bits."""
    low, high = integers[..., : GROUP // 2], integers[..., GROUP // 2 :]
    return (low | (high << np.uint8(4))).astype(np.uint8)
