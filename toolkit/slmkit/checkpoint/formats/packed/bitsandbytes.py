"""bitsandbytes: nf4 and fp4, a table of 16 numbers times a scale for each block, and int8 rows.

Parts of 4 bits: weight uint8 (N * K / 2, 1), the first of two in the high nibble; weight.absmax for
each block of the flattened weight, itself a table's index where nested; weight.quant_map (16,);
weight.quant_state.bitsandbytes__nf4, a JSON object as bytes. No scheme holds such numbers. Of 8
bits: weight int8 (N, K) and SCB (N,), 127 times the scale (``bitsandbytes/functional.py``).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.formats.packed.matrix import (
    Packed,
    Part,
    Parts,
    Stored,
    required,
    signed_bytes,
)
from slmkit.checkpoint.safetensors import DAMAGED
from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.ops import Floats

ABSMAX, MAP, SCB = ".weight.absmax", ".weight.quant_map", ".SCB"
NESTED, NESTED_MAP = ".weight.nested_absmax", ".weight.nested_quant_map"
STATES = (".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4")
MARKS = (ABSMAX, SCB)
SUFFIXES = (".weight", ABSMAX, MAP, SCB, NESTED, NESTED_MAP, *STATES, ".weight_format")
LONGEST = 1 << 16  # bytes of a state
LARGEST_BLOCK = 1 << 16
STEP = np.float32(7.874016e-3)  # 1 / 127, in the package's own digits


class Table(Stored):
    """A matrix of 4-bit indices into a table of 16 numbers."""

    def __init__(self, module: str, parts: Parts, shape: tuple[int, int], state: Config) -> None:
        super().__init__(module, parts, shape)
        self.kind = "nf4" if STATES[0] in parts else "fp4"
        self.block = state.integer("blocksize", 64, most=LARGEST_BLOCK)
        self.nested = state.integer("nested_blocksize", 256, most=LARGEST_BLOCK)
        offset = state.values.get("nested_offset", 0.0)
        if isinstance(offset, bool) or not isinstance(offset, int | float):
            raise CheckpointError(f"{state.where}: nested_offset is {offset!r}", DAMAGED)
        self.offset = np.float32(offset)
        numbers = shape[0] * shape[1]
        blocks = -(-numbers // self.block)
        parts[".weight"].check(("U8",), (-(-numbers // 2), 1))
        parts[MAP].check(("F32",), (16,))
        parts[ABSMAX].check(("U8",) if NESTED in parts else ("F32",), (blocks,))
        if NESTED in parts:
            scales, table = required(module, parts, NESTED, NESTED_MAP)
            scales.check(("F32",), (-(-blocks // self.nested),))
            table.check(("F32",), (256,))

    @property
    def label(self) -> str:
        """The format in its own words."""
        return f"bitsandbytes {self.kind} blocks of {self.block}"

    def floats(self, rows: Any) -> Floats:
        """``rows`` dequantized, float32. (n, K)"""
        count, width = self.shape
        numbers = np.arange(count)[rows][:, None] * width + np.arange(width)
        pairs = self.parts[".weight"].array.reshape(-1)[numbers // 2]
        indices = np.where(numbers % 2, pairs & 15, pairs >> 4)
        values: Floats = self.parts[MAP].floats()[indices]
        values *= self._scales(numbers // self.block)
        return values

    def _scales(self, blocks: NDArray[np.int64]) -> Floats:
        stored = self.parts[ABSMAX].array[blocks]
        if NESTED not in self.parts:
            return stored.astype(np.float32)
        scales: Floats = self.parts[NESTED_MAP].floats()[stored]
        scales *= self.parts[NESTED].floats()[blocks // self.nested]
        return scales + self.offset


class Rows(Packed):
    """A matrix of int8 with one scale for each row."""

    format = "bitsandbytes"
    usually_rounded = True

    def integers(self, rows: Any) -> NDArray[np.int16]:
        """``rows`` as integers. (n, K)"""
        return signed_bytes(self.parts[".weight"].array[rows])

    def scales(self, rows: Any) -> Floats:
        """The scales of ``rows``. (n, 1)"""
        return self.parts[SCB].floats(rows)[:, None] * STEP

    def floats(self, rows: Any) -> Floats:
        """``rows`` dequantized in the order of the package's products, float32. (n, K)"""
        values: Floats = self.parts[".weight"].array[rows].astype(np.float32)
        values *= self.parts[SCB].floats(rows)[:, None]
        return values * STEP

    def zeros(self, rows: Any) -> Floats:
        """The zero points of ``rows``. (n, 1)"""
        return np.full_like(self.scales(rows), 128)


def read(module: str, parts: Parts, settings: Config) -> Stored | None:
    """A matrix by its parts; None if only headers are known, which do not tell the shape.

    Raises CheckpointError for what is not bitsandbytes' layout.
    """
    (weight,) = required(module, parts, ".weight")
    if SCB in parts:
        weight.check(("I8",), (None, None))
        count, width = weight.entry.shape
        parts[SCB].check(("F32",), (count,))
        return Rows(module, parts, (count, width), 8, width)
    kind = STATES[STATES[1] in parts]
    state, _, _ = required(module, parts, kind, MAP, ABSMAX)
    if state.file is None:
        return None
    facts = _facts(state, settings)
    shape = facts.integers("shape")
    if len(shape) != 2:
        raise CheckpointError(f"{facts.where}: shape is {shape}, of no matrix", DAMAGED)
    return Table(module, parts, (shape[0], shape[1]), facts)


def _facts(state: Part, settings: Config) -> Config:
    """The JSON object of a state."""
    state.check(("U8",), (None,))
    where = f"tensor {state.name}"
    if state.entry.shape[0] > LONGEST:
        raise CheckpointError(f"{where} is of {state.entry.shape[0]} bytes", DAMAGED)
    try:
        values = json.loads(state.array.tobytes())
    except (ValueError, RecursionError):
        raise CheckpointError(f"{where} holds no JSON", DAMAGED) from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} holds no JSON object", DAMAGED)
    return Config(values, f"{where} ({settings.where})")
