"""Codes: integers and scales of a quantized weight; pack, unpack, dequantize, read from a file.

The same formula in every backend: weight[n, k] = (code[n, k] - zero_point[n, g]) * scale[n, g],
with g = k // group. Codes are unsigned here (0 .. 2^bits - 1); a symmetric weight's zero point is
2^(bits - 1), so its signed codes are -8 .. 7 or -128 .. 127.

Where the group size does not divide the width, the last group is padded with codes equal to its
zero point, which dequantize to exactly 0. A backend gives them to a kernel that accepts a ragged
last group, or pads the activations; the values of that padding do not change the product.

Scales are exact in float16 and in bfloat16: at most 8 significant bits, and at least float16's
smallest normal number. Two-level scales are channel_scale[n] * multiplier[n, g], with a 4-bit
significand and an integer 1 .. 16: their product has 8 bits.

A palette is the only encoding without scales: weight[n, k] = palette[n // group_rows][code[n, k]],
2^bits numbers exact in float16. The last group of rows may be smaller than the others; rows are
padded to whole bytes with code 0, which does not mean the number 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.safetensors import SafetensorsFile, row_blocks
from slmkit.ops import Floats
from slmkit.recipe.scheme import Scheme

__all__ = [
    "Codes",
    "CodesFile",
    "PaletteCodes",
    "Scheme",
    "group_of",
    "pack",
    "padded_width",
    "unpack",
    "zero_point",
]

Bytes = NDArray[np.uint8]
BLOCK = 1 << 18  # numbers dequantized at a time: 1 MB as float32, within a core's cache


@dataclass(frozen=True)
class Codes:
    """Rows of a quantized weight: N rows, K inputs; Kp is K padded to whole groups."""

    scheme: Scheme
    width: int  # K
    codes: Bytes  # (N, Kp), one code per byte
    scales: Floats  # (N, Kp / group)
    zero_points: Bytes  # (N, Kp / group)

    @property
    def signed(self) -> NDArray[np.int8]:
        """Codes of a symmetric weight minus its zero point. (N, Kp)"""
        return (self.codes.astype(np.int16) - zero_point(self.scheme)).astype(np.int8)

    def dequantize(self) -> Floats:
        """The float32 weight, without padding. (N, K)"""
        rows, padded = self.codes.shape
        grouped = self.codes.reshape(rows, self.scales.shape[1], -1).astype(np.float32)
        grouped -= self.zero_points[:, :, None].astype(np.float32)
        grouped *= self.scales[:, :, None]
        return grouped.reshape(rows, padded)[:, : self.width]


@dataclass(frozen=True)
class PaletteCodes:
    """Rows of a palette-coded weight: N rows, K inputs."""

    codes: Bytes  # (N, K), one code per byte
    palettes: Floats  # (groups, 2^bits), exact in float16
    groups: NDArray[np.int64]  # (N,): index of each row's palette

    def dequantize(self) -> Floats:
        """The float32 weight. (N, K)"""
        flat = self.codes + (self.groups * self.palettes.shape[1])[:, None]
        weight: Floats = np.take(self.palettes.reshape(-1), flat)
        return weight


def group_of(scheme: Scheme, width: int) -> int:
    """Number of inputs that share a scale: the group size, or ``width`` for per-channel."""
    return scheme.group_size or width


def padded_width(scheme: Scheme, width: int) -> int:
    """``width`` rounded up to whole groups, or to whole bytes for schemes without groups."""
    bits = scheme.bits or 8
    unit = scheme.group_size or math.lcm(bits, 8) // bits
    return -(-width // unit) * unit


def zero_point(scheme: Scheme) -> int:
    """Zero point of a symmetric weight: 2^(bits - 1)."""
    return 1 << ((scheme.bits or 8) - 1)


def pack(codes: Bytes, bits: int) -> Bytes:
    """Pack codes of 3, 4, 6 or 8 bits into bytes, from the lowest bit on.

    (N, Kp) -> (N, Kp * bits / 8): two codes of 4 bits per byte, four of 6 bits or eight of 3 bits
    in three bytes.
    """
    if bits == 8:
        return codes
    if bits == 3:  # two codes of 3 bits are one of 6
        return pack(codes[..., 0::2] | (codes[..., 1::2] << np.uint8(3)), 6)
    if bits == 6:
        a, b, c, d = (codes[..., at::4] for at in range(4))
        triple = (a | (b << np.uint8(6)), (b >> 2) | (c << np.uint8(4)), (c >> 4) | (d << 2))
        return np.stack(triple, axis=-1).reshape(*codes.shape[:-1], -1)
    packed: Bytes = codes[..., 0::2] | (codes[..., 1::2] << np.uint8(4))
    return packed


def unpack(packed: Bytes, bits: int) -> Bytes:
    """The inverse of ``pack``. (N, Kp * bits / 8) -> (N, Kp)"""
    if bits == 8:
        return packed
    if bits == 3:
        pairs = unpack(packed, 6)
        return np.stack([pairs & 7, pairs >> 3], axis=-1).reshape(*pairs.shape[:-1], -1)
    codes = np.empty((*packed.shape[:-1], packed.shape[-1] * 8 // bits), dtype=np.uint8)
    if bits == 6:
        a, b, c = (packed[..., at::3] for at in range(3))
        codes[..., 0::4], codes[..., 1::4] = a & 63, (a >> 6) | ((b & 15) << 2)
        codes[..., 2::4], codes[..., 3::4] = (b >> 4) | ((c & 3) << 4), c >> 2
        return codes
    np.bitwise_and(packed, 0xF, out=codes[..., 0::2])
    np.right_shift(packed, 4, out=codes[..., 1::2])
    return codes


class CodesFile:
    """All weights of one model under one recipe, in one memory-mapped safetensors file.

    Tensors: ``NAME.weight`` (F16 vectors and matrices), ``NAME.codes`` (packed), ``NAME.scales``
    (F16), ``NAME.channel_scales`` and ``NAME.multipliers`` for two-level, ``NAME.zero_points``
    for asymmetric, ``NAME.palettes`` (F16) for a palette; ``NAME.bias``. Implements the
    reference's ``Weights``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = SafetensorsFile(path)
        facts = json.loads(self.file.metadata["weights"])
        self.stream_scale = float(self.file.metadata["stream_scale"])  # held by the weights
        inputs = json.loads(self.file.metadata["inputs"])  # of linears that round them to integers
        self.outliers: dict[str, tuple[int, ...]] = {  # channels apart from the others
            name: tuple(found) for name, found in inputs.get("outliers", {}).items()
        }
        self.input_parts: dict[str, int] = inputs.get("parts", {})  # of equal size
        self.schemes = {name: Scheme.model_validate(fact["scheme"]) for name, fact in facts.items()}
        self.shapes: dict[str, tuple[int, int]] = {
            name: tuple(fact["shape"]) for name, fact in facts.items()
        }

    def vector(self, tensor: str) -> Floats:
        """A norm's weight or a bias, (width,) float32."""
        return self.file.floats(tensor)

    def packed(self, name: str) -> Bytes:
        """View of the packed codes of a weight. (N, Kp * bits / 8)"""
        return self.file.array(f"{name}.codes")

    def halves(self, name: str) -> NDArray[np.float16]:
        """View of a float16 matrix. (N, K)"""
        return self.file.array(f"{name}.weight")

    def scales(self, name: str, rows: Any = slice(None)) -> Floats:
        """Scales of ``rows``, float32. (N, groups)"""
        if self.schemes[name].scales == "two-level":
            channel = self.file.floats(f"{name}.channel_scales", rows)
            scales: Floats = channel[:, None] * self.file.array(f"{name}.multipliers")[rows]
            return scales
        return self.file.floats(f"{name}.scales", rows)

    def two_level(self, name: str) -> tuple[Floats, Bytes]:
        """Channel scales (N,) float32 and multipliers (N, groups) uint8 of a two-level weight."""
        multipliers: Bytes = self.file.array(f"{name}.multipliers")
        return self.file.floats(f"{name}.channel_scales"), multipliers

    def zero_points(self, name: str, rows: Any = slice(None)) -> Bytes:
        """Zero points of ``rows``. (N, groups)"""
        if self.schemes[name].symmetric:
            constant = zero_point(self.schemes[name])
            return np.full(self.scales(name, rows).shape, constant, dtype=np.uint8)
        stored: Bytes = self.file.array(f"{name}.zero_points")[rows]
        return stored

    def codes(self, name: str, rows: Any = slice(None)) -> Codes:
        """``rows`` of a quantized weight, unpacked."""
        scheme = self.schemes[name]
        return Codes(
            scheme,
            self.shapes[name][1],
            unpack(self.packed(name)[rows], scheme.bits or 8),
            self.scales(name, rows),
            self.zero_points(name, rows),
        )

    def palette(self, name: str, rows: Any = slice(None)) -> PaletteCodes:
        """``rows`` of a palette-coded weight, unpacked."""
        scheme, (count, width) = self.schemes[name], self.shapes[name]
        codes = unpack(self.packed(name)[rows], scheme.bits or 8)[..., :width]
        of_rows = np.arange(count)[rows] // (scheme.group_rows or 1)
        used, groups = np.unique(of_rows, return_inverse=True)
        return PaletteCodes(codes, self.file.floats(f"{name}.palettes", used), groups)

    def rows(self, tensor: str, rows: Any) -> Floats:
        """``rows`` of a matrix, dequantized. (len(rows), K)"""
        name = tensor.removesuffix(".weight")
        if self.schemes[name].encoding == "float16":
            return self.file.floats(tensor, rows)
        if self.schemes[name].encoding == "palette":
            return self.palette(name, rows).dequantize()
        return self.codes(name, rows).dequantize()

    def blocks(self, tensor: str) -> Iterator[tuple[int, Floats]]:
        """A matrix in consecutive blocks of rows, dequantized: (first row, block)."""
        name = tensor.removesuffix(".weight")
        for block in row_blocks(*self.shapes[name], BLOCK):
            yield block.start, self.rows(tensor, block)
        self.forget(name)

    def forget(self, name: str) -> None:
        """Release a weight's memory-mapped pages; they are read again on the next access."""
        for part in ("codes", "weight"):
            if f"{name}.{part}" in self.file.entries:
                self.file.forget(f"{name}.{part}")

    @cached_property
    def key(self) -> str:
        """Content address of the file in the build cache: a hash of the inputs of quantization."""
        return self.file.metadata["key"]
