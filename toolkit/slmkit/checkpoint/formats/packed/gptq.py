"""GPTQ as AutoGPTQ and its successors write it: packed along the inputs, eight codes in a word.

Parts: qweight int32 (K * bits / 32, N), qzeros int32 (groups, N * bits / 32), scales (groups, N),
g_idx int32 (K,), the group of each input (GPTQModel, ``gptqmodel/nn_modules/qlinear``).
Version 1 stores zero points less one, version 2 as they are. The field ``checkpoint_format`` is
wrong in some published files, so the tensor decides: of symmetric weights all are the middle, or
one less; of others of 4 bits, dequantized weights have a mean near 0. The ones are subtracted from
whole words, so that a zero point of 0 borrows from the next: they are added to whole words again.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.formats.packed.matrix import (
    ORIGINAL,
    SCALES,
    Packed,
    Parts,
    fields,
    refuse_bits,
    required,
)
from slmkit.checkpoint.safetensors import DAMAGED
from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.ops import Floats

MARKS = (".qweight",)
SUFFIXES = (".qweight", ".qzeros", ".scales", ".g_idx")
FORMAT = "checkpoint_format"
LAYOUTS = ("gptq", "gptq_v2")
WORDS = 64  # of each output, whose mean decides between versions
CLEAR = 0.3  # codes; a mean this near to 0 decides


class Gptq(Packed):
    """A matrix in GPTQ's layout; ``second``: the settings say that it is of version 2."""

    format = "GPTQ"
    second = False

    def integers(self, rows: Any) -> NDArray[np.int16]:
        """``rows`` as integers. (n, K)"""
        return fields(self.parts[".qweight"].array[:, rows], self.bits, 0).T

    def scales(self, rows: Any) -> Floats:
        """The scales of ``rows``. (n, groups)"""
        return self.parts[".scales"].floats((slice(None), rows)).T

    def zeros(self, rows: Any) -> Floats:
        """The zero points of ``rows``. (n, groups)"""
        ones = sum(1 << place for place in range(0, 32, self.bits))  # a one in each field
        words = self.parts[".qzeros"].array.view(np.uint32) + np.uint32(self.less * ones)
        return fields(words, self.bits, 1)[:, rows].T.astype(np.float32)

    @cached_property
    def less(self) -> int:
        """How much less than zero points the stored ones are: 1 in version 1, else 0."""
        stored = fields(self.parts[".qzeros"].array, self.bits, 1)
        middle = 1 << (self.bits - 1)
        if (stored == middle - 1).all() or (stored == middle).all():
            return int(stored.flat[0] != middle)
        if self.bits > 4:  # one code is too little for a mean to tell
            return int(not self.second)
        words = self.parts[".qweight"].array[:WORDS]
        integers = fields(words, self.bits, 0)
        groups = self.columns[: len(integers)]
        scales = self.parts[".scales"].floats()[groups]
        total = np.abs(scales).sum(dtype=np.float64)
        mean = ((integers - stored[groups]) * scales).sum(dtype=np.float64) / total if total else 0
        if abs(mean) < CLEAR:
            return 0
        return 1 if abs(mean - 1) < CLEAR else int(not self.second)


def read(module: str, parts: Parts, settings: Config) -> Gptq:
    """A matrix by its parts. Raises CheckpointError for what is not GPTQ's layout."""
    layout = settings.string(FORMAT, settings.string("format", "gptq"))
    if layout not in LAYOUTS:
        raise CheckpointError(
            f"the checkpoint is quantized in GPTQ's layout {layout!r}; only "
            f"{' and '.join(LAYOUTS)} are read",
            ORIGINAL,
        )
    weight, zeros, scales = required(module, parts, *SUFFIXES[:3])
    weight.check(("I32",), (None, None))
    words, count = weight.entry.shape
    bits = settings.integer("bits", most=32)
    width = words * 32 // bits
    if ".g_idx" in parts:  # settings may have other bits for some modules
        parts[".g_idx"].check(("I32", "I64"), (None,))
        width = parts[".g_idx"].entry.shape[0]
        bits = words * 32 // width
    refuse_bits(module, "GPTQ", bits)
    weight.check(("I32",), (width * bits // 32, count))
    scales.check(SCALES, (None, count))
    groups = scales.entry.shape[0]
    zeros.check(("I32",), (groups, -(-count * bits // 32)))
    stated = settings.values.get("group_size")
    found = Gptq(module, parts, (count, width), bits, group_of(module, width, groups, stated))
    found.second = layout == LAYOUTS[1]
    if ".g_idx" in parts:
        found.take_order(parts[".g_idx"])
    shuffled = settings.boolean("desc_act", False) and not settings.boolean("static_groups", False)
    if shuffled and (".g_idx" not in parts or parts[".g_idx"].file is None):
        found.order = found.columns  # not known here, and hardly runs of inputs
    return found


def group_of(module: str, width: int, groups: int, stated: Any) -> int:
    """Inputs that share a scale. Raises CheckpointError if the groups do not cover the inputs."""
    if groups == 1:
        return width
    if type(stated) is int and stated > 0 and -(-width // stated) == groups:
        return stated
    if width % groups:
        raise CheckpointError(f"{module} has {groups} groups for {width} inputs", DAMAGED)
    return width // groups
