"""One matrix that is stored as packed integers, scales and zero points, whatever its format.

weight[n, k] = (integer[n, k] - zero[n, g]) * scale[n, g], with g = k // group, or ``order[k]``
where a format stores the group of each input. A format is a subclass with the layout of its parts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.formats.coded import Coded, Traits, codes_in, traits_of
from slmkit.checkpoint.safetensors import (
    DAMAGED,
    FLOATS,
    Entry,
    SafetensorsFile,
    as_float32,
    row_blocks,
)
from slmkit.errors import CheckpointError
from slmkit.models.config import LARGEST
from slmkit.ops import Floats
from slmkit.quant.codes import Codes
from slmkit.recipe.scheme import Scheme

GROUPS = (128, 64, 32)  # of schemes; a stored group may be several of them
SCALES = tuple(each for each in FLOATS if each != "F64")  # types of scales
BLOCK = 1 << 20  # numbers looked at, at a time
ORIGINAL = "give slmkit the original checkpoint, which it quantizes itself"


@dataclass(frozen=True, eq=False)
class Part:
    """One stored tensor."""

    name: str
    entry: Entry
    file: SafetensorsFile | None = None  # None: only its header is known

    @property
    def array(self) -> NDArray[Any]:
        """View of the tensor as stored."""
        if self.file is None:
            raise ValueError(f"{self.name}: only its header was read")
        return self.file.view(self.entry)

    def floats(self, at: Any = slice(None)) -> Floats:
        """Some of the numbers, as a new float32 array."""
        return as_float32(self.array[at], self.entry.dtype)

    def check(self, dtypes: tuple[str, ...], shape: tuple[int | None, ...]) -> None:
        """Raise CheckpointError for another type or shape; None stands for any size above 0."""
        stored = self.entry.shape
        fits = len(stored) == len(shape) and all(
            size == (wanted or size) and size for size, wanted in zip(stored, shape, strict=False)
        )
        if not fits or self.entry.dtype not in dtypes:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise CheckpointError(
                f"tensor {self.name} is {self.entry.dtype} {stored}; beside its other tensors it "
                f"should be {' or '.join(dtypes)} ({wanted})",
                DAMAGED,
            )


Parts = Mapping[str, Part]  # by what follows the module's name


class Stored(ABC):
    """A matrix of one format. ``module``: its name without ``.weight``; ``shape``: (N, K)."""

    format = ""
    usually_rounded = False  # what ``rounded`` is of nearly all files of the format

    def __init__(self, module: str, parts: Parts, shape: tuple[int, int]) -> None:
        if not all(0 < size <= LARGEST for size in shape):
            raise CheckpointError(f"{module} is stored as a matrix of {shape} numbers", DAMAGED)
        self.module, self.parts, self.shape = module, parts, shape

    @abstractmethod
    def floats(self, rows: Any) -> Floats:
        """``rows`` dequantized, float32. (n, K)"""

    @property
    def label(self) -> str:
        """The format in its own words."""
        return self.format

    @property
    def scheme(self) -> Scheme | None:
        """The scheme of ``codes``; None if no scheme holds them. It may read all scales."""
        return None

    @property
    def likely_scheme(self) -> Scheme | None:
        """The scheme by shapes alone, if scales are what they usually are."""
        return None

    @property
    def rounded(self) -> bool:
        """Whether the scales or zero points of ``codes`` are not quite the stored ones."""
        return False

    def codes(self, rows: Any) -> Codes:
        """``rows`` in the ``scheme``."""
        raise ValueError(f"{self.module}: no scheme holds its codes")

    def release(self) -> None:
        """Release the memory-mapped pages of all parts."""
        for part in self.parts.values():
            if part.file is not None:
                part.file.release(part.entry)


class Packed(Stored):
    """A matrix of integers with scales and zero points.

    ``group``: inputs that share a scale, K for one scale per channel; ``order``: the group of each
    input, where groups are no runs of inputs.
    """

    def __init__(
        self, module: str, parts: Parts, shape: tuple[int, int], bits: int, group: int
    ) -> None:
        super().__init__(module, parts, shape)
        self.bits, self.group = bits, min(group, shape[1])
        self.order: NDArray[np.int64] | None = None

    @abstractmethod
    def integers(self, rows: Any) -> NDArray[np.int16]:
        """``rows`` as integers 0 to 2^bits - 1. (n, K)"""

    @abstractmethod
    def scales(self, rows: Any) -> Floats:
        """The scales of ``rows``. (n, groups)"""

    @abstractmethod
    def zeros(self, rows: Any) -> Floats:
        """The zero points of ``rows``. (n, groups)"""

    def take_order(self, part: Part) -> None:
        """Take the group of each input, (K,), if groups are no runs of inputs of one size.

        Raises CheckpointError for groups that do not exist.
        """
        part.check(("I32", "I64"), (self.shape[1],))
        if part.file is None:
            return
        order, groups = part.array.astype(np.int64), -(-self.shape[1] // self.group)
        if ((order < 0) | (order >= groups)).any():
            raise CheckpointError(f"tensor {part.name} names groups that do not exist", DAMAGED)
        if not np.array_equal(order, self.columns):
            self.order = self.columns = order

    @property
    def label(self) -> str:
        """The format in its own words."""
        group = "per channel" if self.group == self.shape[1] else f"g{self.group}"
        shuffled = " act-order" if self.order is not None else ""
        return f"{self.format} int{self.bits} {group}{shuffled}"

    @cached_property
    def rounded(self) -> bool:
        """Whether the scales or zero points of ``codes`` are not quite the stored ones."""
        for rows in row_blocks(*self.shape, BLOCK):
            scales = self.scales(rows)
            if not np.array_equal(_held(scales), scales):
                return True
        return False

    def floats(self, rows: Any) -> Floats:
        """``rows`` dequantized, float32. (n, K)"""
        columns = self.columns
        values: Floats = self.integers(rows) - self.zeros(rows)[:, columns]
        values *= self.scales(rows)[:, columns]
        return values

    @cached_property
    def columns(self) -> NDArray[np.int64]:
        """The group of each input. (K,)"""
        return np.arange(self.shape[1]) // self.group

    @property
    def size(self) -> int | None:
        """The group size of a scheme that holds the groups; None: it is per-channel, or none."""
        if self.group == self.shape[1]:
            return None
        return next((size for size in GROUPS if self.group % size == 0), None)

    @property
    def representable(self) -> bool:
        """Whether a scheme has the groups, whatever the scales are."""
        regular = self.size is not None or self.group == self.shape[1]
        return self.order is None and self.bits in (4, 8) and regular

    @cached_property
    def scheme(self) -> Scheme | None:
        """The scheme of ``codes``; None if none has such groups, zero points or scales.

        It reads all scales and zero points, and integers where a scale is negative. Scales that
        float16 does not hold are rounded to it.
        """
        if not self.representable:
            return None
        found = Traits()
        for rows in row_blocks(*self.shape, BLOCK):
            found &= self._traits(rows)
            if not found.exact:
                break
        return found.scheme(self.bits, self.size)

    @property
    def likely_scheme(self) -> Scheme | None:
        """The scheme by shapes alone, if scales are what they usually are."""
        if not self.representable:
            return None
        return Traits(symmetric=self.bits == 8, eight_bits=False).scheme(self.bits, self.size)

    def codes(self, rows: Any) -> Codes:
        """``rows`` in the ``scheme``."""
        if self.scheme is None:
            raise ValueError(f"{self.module}: no scheme holds its codes")
        return codes_in(self._coded(rows), self.scheme, self.shape[1])

    def _traits(self, rows: Any) -> Traits:
        scales, zeros = _held(self.scales(rows)), self.zeros(rows)
        if (scales < 0).any():
            return traits_of(self._coded(rows))
        middle = np.full((*scales.shape, 1), 1 << (self.bits - 1), np.int16)
        return traits_of(Coded(middle, scales, zeros, self.bits))

    def _coded(self, rows: Any) -> Coded:
        """``rows`` in whole groups of a scheme's size."""
        integers, scales, zeros = self.integers(rows), _held(self.scales(rows)), self.zeros(rows)
        size = self.size or self.shape[1]
        count = -(-self.shape[1] // size)
        if count > scales.shape[1]:
            times = self.group // size
            scales, zeros = (np.repeat(each, times, axis=1)[:, :count] for each in (scales, zeros))
        padding = count * size - self.shape[1]
        if padding:
            filler = np.repeat(zeros[:, -1:].astype(np.int16), padding, axis=1)
            integers = np.concatenate([integers, filler], axis=1)
        return Coded(integers.reshape(len(integers), count, size), scales, zeros, self.bits)


def fields(words: NDArray[Any], bits: int, axis: int) -> NDArray[np.int16]:
    """The integers of ``bits`` bits in 32-bit words, from the lowest bit on, along ``axis``."""
    whole = np.moveaxis(np.ascontiguousarray(words).view(np.uint32), axis, -1)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    parts = (whole[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    integers: NDArray[np.int16] = parts.astype(np.int16).reshape(*whole.shape[:-1], -1)
    return np.moveaxis(integers, -1, axis)


def required(module: str, parts: Parts, *names: str) -> list[Part]:
    """Parts of a matrix. Raises CheckpointError for the first that is not there."""
    for name in names:
        if name not in parts:
            raise CheckpointError(f"the checkpoint has no tensor {module}{name}", DAMAGED)
    return [parts[name] for name in names]


def signed_bytes(stored: NDArray[np.int8]) -> NDArray[np.int16]:
    """Integers of 8 bits with a sign as 0 to 255, around 128."""
    return stored.astype(np.int16) + np.int16(128)


def refuse_bits(module: str, name: str, bits: int, known: tuple[int, ...] = (4, 8)) -> None:
    """Raise CheckpointError for integers of a size that is not read."""
    if bits not in known:
        sizes = " or ".join(map(str, known))
        raise CheckpointError(
            f"{module} is stored as {name} of {bits} bits; only {sizes} bits are read", ORIGINAL
        )


def _held(scales: Floats) -> Floats:
    """Scales as float16 holds them."""
    with np.errstate(over="ignore"):
        return scales.astype(np.float16).astype(np.float32)
