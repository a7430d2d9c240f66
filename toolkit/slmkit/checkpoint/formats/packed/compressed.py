"""compressed-tensors (llm-compressor): ``pack-quantized``, and integers of 8 bits as they are.

Parts of a packed matrix: weight_packed int32 (N, K * bits / 32) of integers plus 2^(bits - 1),
weight_scale (N, groups), weight_shape (2,), weight_zero_point packed along the outputs, and
weight_g_idx of act-order. Of ``int-quantized`` and ``naive-quantized``: weight int8 (N, K),
weight_scale (N, 1) and weight_zero_point int8 (its package's ``compressors/pack_quantized``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.formats.packed.gptq import group_of
from slmkit.checkpoint.formats.packed.matrix import (
    ORIGINAL,
    SCALES,
    Packed,
    Parts,
    fields,
    refuse_bits,
    required,
    signed_bytes,
)
from slmkit.checkpoint.safetensors import DAMAGED
from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.ops import Floats

PACKED, PLAIN = ".weight_packed", ".weight"
SCALE, SHAPE, ZEROS, ORDER = (
    ".weight_scale",
    ".weight_shape",
    ".weight_zero_point",
    ".weight_g_idx",
)
MARKS = (PACKED, SCALE)
SUFFIXES = (PACKED, PLAIN, SCALE, SHAPE, ZEROS, ORDER)
REFUSED = {  # sections that change the values or the computation, by what they are
    "sparsity_config": "sparse matrices",
    "transform_config": "rotations of activations",
}


class Compressed(Packed):
    """A matrix in compressed-tensors' layout."""

    format = "compressed-tensors"

    def integers(self, rows: Any) -> NDArray[np.int16]:
        """``rows`` as integers. (n, K)"""
        if PACKED in self.parts:
            return fields(self.parts[PACKED].array[rows], self.bits, 1)[:, : self.shape[1]]
        return signed_bytes(self.parts[PLAIN].array[rows])

    def scales(self, rows: Any) -> Floats:
        """The scales of ``rows``. (n, groups)"""
        return self.parts[SCALE].floats(rows)

    def zeros(self, rows: Any) -> Floats:
        """The zero points of ``rows``. (n, groups)"""
        middle = 1 << (self.bits - 1)
        if ZEROS not in self.parts:
            return np.full_like(self.scales(rows), middle)
        stored = self.parts[ZEROS].array
        if self.parts[ZEROS].entry.dtype == "I8":
            found: Floats = stored[rows].astype(np.float32) + np.float32(middle)
        else:
            found = fields(stored, self.bits, 0)[: self.shape[0]][rows].astype(np.float32)
        return found


def read(module: str, parts: Parts, settings: Config) -> Compressed | None:
    """A matrix by its parts; None for a module whose weight is no integers.

    Raises CheckpointError for what is not this layout.
    """
    for key, about in REFUSED.items():
        section = settings.section(key)
        if section and section.values.get("format", "") != "dense":
            raise CheckpointError(
                f"{settings.where}: {key} tells of {about}, which are not read", ORIGINAL
            )
    found = _packed(module, parts, settings) if PACKED in parts else _plain(module, parts)
    if found is not None and ORDER in parts:
        found.take_order(parts[ORDER])
    return found


def _packed(module: str, parts: Parts, settings: Config) -> Compressed:
    weight, scale = required(module, parts, PACKED, SCALE)
    weight.check(("I32",), (None, None))
    count, words = weight.entry.shape
    scale.check(SCALES, (count, None))
    groups = scale.entry.shape[1]
    bits, group = _stated(module, settings, groups)
    width = words * 32 // bits if groups == 1 else groups * group
    if SHAPE in parts:
        parts[SHAPE].check(("I64", "I32"), (2,))
        if parts[SHAPE].file is not None:
            rows, width = map(int, parts[SHAPE].array)
            if rows != count or not 0 < width <= words * 32:
                raise CheckpointError(f"{module}{SHAPE} is not that of its codes", DAMAGED)
    bits = next((each for each in (4, 8) if -(-width * each // 32) == words), words * 32 // width)
    refuse_bits(module, "compressed-tensors", bits)
    weight.check(("I32",), (count, -(-width * bits // 32)))
    found = Compressed(module, parts, (count, width), bits, group_of(module, width, groups, group))
    if ZEROS in parts:
        packed = parts[ZEROS].entry.dtype == "I32"
        rows = -(-count * bits // 32) if packed else count
        parts[ZEROS].check(("I32", "I8"), (rows, groups))
    return found


def _plain(module: str, parts: Parts) -> Compressed | None:
    if PLAIN not in parts or parts[PLAIN].entry.dtype != "I8":
        return None  # floats, or a type that is refused by name later
    parts[PLAIN].check(("I8",), (None, None))
    count, width = parts[PLAIN].entry.shape
    parts[SCALE].check(SCALES, (count, None))
    groups = parts[SCALE].entry.shape[1]
    if ZEROS in parts:
        parts[ZEROS].check(("I8",), (count, groups))
    return Compressed(module, parts, (count, width), 8, group_of(module, width, groups, None))


def _stated(module: str, settings: Config, groups: int) -> tuple[int, int]:
    """Bits and group size by the settings: those of the first group of modules that has weights.

    Shapes correct them where a file has several.
    """
    for section in (settings.section("config_groups") or Config({}, "")).values.values():
        weights = section.get("weights") if isinstance(section, dict) else None
        if isinstance(weights, dict):
            facts = Config(weights, f"{settings.where}: config_groups")
            if facts.string("type", "int") != "int":
                raise CheckpointError(
                    f"{module} is stored as packed {facts.values['type']} numbers, which are not "
                    "read",
                    ORIGINAL,
                )
            size = facts.values.get("group_size")
            group = size if type(size) is int and size > 0 else 0
            return facts.integer("num_bits", most=32), group if groups > 1 else 0
    raise CheckpointError(f"{settings.where}: config_groups names no weights", DAMAGED)
