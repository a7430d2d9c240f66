"""AWQ as AutoAWQ writes it (version "gemm"): packed along the outputs, in an order of its own.

Parts: qweight int32 (K, N / 8), qzeros int32 (groups, N / 8), scales (groups, N). The nibbles of a
word, from the lowest on, are outputs 0, 2, 4, 6, 1, 3, 5 and 7 of its eight (AutoAWQ,
``awq/utils/packing_utils.py``).
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
    refuse_bits,
    required,
)
from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.ops import Floats

MARKS = (".qweight",)
SUFFIXES = (".qweight", ".qzeros", ".scales")
NIBBLES = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # the nibble of each of eight outputs


class Awq(Packed):
    """A matrix in AWQ's layout."""

    format = "AWQ"

    def integers(self, rows: Any) -> NDArray[np.int16]:
        """``rows`` as integers. (n, K)"""
        return self._outputs(self.parts[".qweight"].array, rows)

    def scales(self, rows: Any) -> Floats:
        """The scales of ``rows``. (n, groups)"""
        return self.parts[".scales"].floats((slice(None), rows)).T

    def zeros(self, rows: Any) -> Floats:
        """The zero points of ``rows``. (n, groups)"""
        return self._outputs(self.parts[".qzeros"].array, rows).astype(np.float32)

    def _outputs(self, words: NDArray[Any], rows: Any) -> NDArray[np.int16]:
        """Rows of what is packed along the outputs. (K or groups, N / 8) -> (n, K or groups)"""
        chosen = np.arange(self.shape[0])[rows]
        shifts = (4 * NIBBLES[chosen % 8]).astype(np.uint32)[:, None]
        found = words.T[chosen // 8].view(np.uint32) >> shifts
        integers: NDArray[np.int16] = (found & np.uint32(15)).astype(np.int16)
        return integers


def read(module: str, parts: Parts, settings: Config) -> Awq:
    """A matrix by its parts. Raises CheckpointError for what is not AWQ's layout."""
    version = settings.string("version", "gemm").lower()
    if version != "gemm":
        raise CheckpointError(
            f"the checkpoint is quantized in AWQ's layout {version!r}; only gemm is read", ORIGINAL
        )
    weight, zeros, scales = required(module, parts, *SUFFIXES)
    weight.check(("I32",), (None, None))
    width, words = weight.entry.shape
    bits = settings.integer("bits", settings.values.get("w_bit", 4), most=32)
    refuse_bits(module, "AWQ", bits, (4,))
    scales.check(SCALES, (None, words * 8))
    groups = scales.entry.shape[0]
    zeros.check(("I32",), (groups, words))
    stated = settings.values.get("group_size", settings.values.get("q_group_size"))
    return Awq(module, parts, (words * 8, width), 4, group_of(module, width, groups, stated))
