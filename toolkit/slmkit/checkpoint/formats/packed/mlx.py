"""MLX's affine quantization: packed along the inputs, with a scale and a bias for each group.

Parts: weight uint32 (N, K * bits / 32), scales (N, groups), biases (N, groups);
weight[n, k] = integer * scale + bias (MLX's documentation of ``mlx.core.quantize``). A bias is a
zero point times a scale, but each of the two is rounded by itself, so that the quotient is a whole
number only nearly: codes are kept with the nearest one.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.formats.packed.matrix import (
    BLOCK,
    ORIGINAL,
    SCALES,
    Packed,
    Parts,
    fields,
    refuse_bits,
    required,
)
from slmkit.checkpoint.safetensors import row_blocks
from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.ops import Floats

MARKS = (".scales",)
SUFFIXES = (".weight", ".scales", ".biases")
NEAR = 0.125  # codes; a zero point further from a whole number is none


class Mlx(Packed):
    """A matrix in MLX's affine layout."""

    format = "MLX affine"
    usually_rounded = True

    def integers(self, rows: Any) -> NDArray[np.int16]:
        """``rows`` as integers. (n, K)"""
        return fields(self.parts[".weight"].array[rows], self.bits, 1)

    def scales(self, rows: Any) -> Floats:
        """The scales of ``rows``. (n, groups)"""
        return self.parts[".scales"].floats(rows)

    def zeros(self, rows: Any) -> Floats:
        """The nearest zero points of ``rows``; NaN where none is near. (n, groups)"""
        exact = self._quotients(rows)
        nearest = np.rint(exact)
        with np.errstate(invalid="ignore"):
            return np.where(np.abs(exact - nearest) <= NEAR, nearest, np.nan).astype(np.float32)

    @cached_property
    def rounded(self) -> bool:
        """Whether a zero point times its scale is not its bias, or a scale is no float16."""
        if super().rounded:
            return True
        for rows in row_blocks(*self.shape, BLOCK):
            biases = self.parts[".biases"].floats(rows)
            if not np.array_equal(-self.zeros(rows) * self.scales(rows), biases):
                return True
        return False

    def floats(self, rows: Any) -> Floats:
        """``rows`` dequantized, float32. (n, K)"""
        values: Floats = self.integers(rows) * self.scales(rows)[:, self.columns]
        values += self.parts[".biases"].floats(rows)[:, self.columns]
        return values

    def _quotients(self, rows: Any) -> Floats:
        scales, biases = self.scales(rows), self.parts[".biases"].floats(rows)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            quotients: Floats = np.where((scales == 0) & (biases == 0), 0, -biases / scales)
        return quotients


def read(module: str, parts: Parts, settings: Config) -> Mlx:
    """A matrix by its parts. Raises CheckpointError for what is not MLX's affine layout."""
    own = settings.section(module) or settings
    mode = own.string("mode", settings.string("mode", "affine"))
    if mode != "affine":
        raise CheckpointError(
            f"the checkpoint is quantized in MLX's mode {mode!r}; only affine is read", ORIGINAL
        )
    weight, scales, biases = required(module, parts, *SUFFIXES)
    if len(weight.entry.shape) == 3:
        raise CheckpointError(
            f"{module} holds several experts in MLX's layout, which is not read", ORIGINAL
        )
    weight.check(("U32",), (None, None))
    count, words = weight.entry.shape
    scales.check(SCALES, (count, None))
    groups = scales.entry.shape[1]
    biases.check(SCALES, (count, groups))
    group = own.integer("group_size", settings.integer("group_size", 64))
    bits = words * 32 // (groups * group)
    refuse_bits(module, "MLX affine", bits)
    weight.check(("U32",), (count, groups * group * bits // 32))
    return Mlx(module, parts, (count, groups * group), bits, group)
