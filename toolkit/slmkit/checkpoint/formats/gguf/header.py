"""Read the header of a GGUF file: metadata, and the tensors' types, shapes and places.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The reader of the package
``gguf`` needs the whole file and trusts its counts; this one reads any source of bytes, a few
hundred kilobytes of a file on a server too, and refuses what would fill the memory.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from slmkit.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # 1 had counts of 32 bits
# Limits that only a damaged or hostile file exceeds. The largest vocabularies have 262,144 tokens;
# the longest chat templates 30 thousand characters.
LONGEST_HEADER = 1 << 26  # bytes
LONGEST_STRING = 1 << 24  # bytes
LONGEST_NAME = 256  # bytes; llama.cpp has 64
MOST_STRINGS = 1 << 21  # in one array
MOST_ENTRIES = 1 << 16  # metadata, and tensors
MOST_DIMENSIONS = 4
LARGEST_DIMENSION = 1 << 40
ALIGNMENT, LARGEST_ALIGNMENT = 32, 1 << 20
FLOAT32, STRING, ARRAY = 6, 8, 9  # types of values
SCALARS = {  # type -> NumPy's, little-endian
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
DAMAGED = "the file is damaged or was changed: download it again"
Fetch = Callable[[int], "bytes | memoryview"]  # bytes of the file from its start, at least so many


@dataclass(frozen=True)
class TensorFacts:
    """One tensor of a header."""

    kind: int  # of ggml: 0 is F32, 2 is Q4_0
    shape: tuple[int, ...]  # rows first, as NumPy has it
    offset: int  # bytes from the start of the data


@dataclass(frozen=True)
class Header:
    """All of a file but the data."""

    metadata: dict[str, Any]  # arrays of numbers are lists
    tensors: dict[str, TensorFacts]
    data: int  # offset of the data, in bytes


def read_header(fetch: Fetch, where: str) -> Header:
    """The header of the file that ``fetch`` reads. Raises CheckpointError.

    ``where``: the file's name, for messages.
    """
    cursor = _Cursor(fetch, where)
    if bytes(cursor.take(4)) != MAGIC:
        raise cursor.error("it does not begin with GGUF: it is another kind of file")
    (version,) = struct.unpack("<I", cursor.take(4))
    if version not in VERSIONS:
        kind = "big-endian" if version & 0xFFFF == 0 else f"of version {version}"
        raise cursor.error(f"it is {kind}; versions 2 and 3, little-endian, are read")
    tensors, entries = (cursor.count(MOST_ENTRIES) for _ in range(2))
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        key = cursor.text(LONGEST_NAME)
        if key in metadata:
            raise cursor.error(f"the key {key!r} occurs twice")
        metadata[key] = cursor.value(cursor.number())
    found: dict[str, TensorFacts] = {}
    for _ in range(tensors):
        name = cursor.text(LONGEST_NAME)
        if name in found:
            raise cursor.error(f"the tensor {name!r} occurs twice")
        found[name] = cursor.tensor(name)
    alignment = _alignment(metadata, cursor)
    return Header(metadata, found, -(-cursor.at // alignment) * alignment)


def _alignment(metadata: dict[str, Any], cursor: _Cursor) -> int:
    value = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(value, int) or not 0 < value <= LARGEST_ALIGNMENT or value & (value - 1):
        raise cursor.error(f"general.alignment is {value!r}, no power of two")
    return value


class _Cursor:
    """A place in the header, which moves forward; every step is checked."""

    def __init__(self, fetch: Fetch, where: str) -> None:
        self.fetch, self.where = fetch, where
        self.at, self.seen = 0, memoryview(b"")

    def error(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self.where} cannot be read: {why}", DAMAGED)

    def take(self, size: int) -> memoryview:
        """The next ``size`` bytes."""
        stop = self.at + size
        if stop > LONGEST_HEADER:
            raise self.error(f"its header is longer than {LONGEST_HEADER} bytes")
        if stop > len(self.seen):
            self.seen = memoryview(self.fetch(stop))
        if stop > len(self.seen):
            raise self.error(f"it ends after {len(self.seen)} bytes, within its header")
        found = self.seen[self.at : stop]
        self.at = stop
        return found

    def number(self) -> int:
        value: int = struct.unpack("<I", self.take(4))[0]
        return value

    def count(self, most: int) -> int:
        value: int = struct.unpack("<Q", self.take(8))[0]
        if value > most:
            raise self.error(f"it counts {value} entries where at most {most} are read")
        return value

    def text(self, longest: int = LONGEST_STRING) -> str:
        size = self.count(longest)
        try:
            return str(self.take(size), "utf-8")
        except UnicodeDecodeError:
            raise self.error(f"the text before byte {self.at} is no UTF-8") from None

    def value(self, kind: int) -> Any:
        """A value of metadata: a scalar, a string, or a list of either."""
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self.array()
        value = self.scalars(kind, 1)[0]
        # The shortest number that is this float32: 1e-05, not 9.999999747378752e-06.
        return float(str(np.float32(value))) if kind == FLOAT32 else value

    def array(self) -> list[Any]:
        kind = self.number()
        if kind == ARRAY:
            raise self.error("an array holds arrays")
        if kind == STRING:
            return [self.text() for _ in range(self.count(MOST_STRINGS))]
        return self.scalars(kind, self.count(LONGEST_HEADER))

    def scalars(self, kind: int, count: int) -> list[Any]:
        if kind not in SCALARS:
            raise self.error(f"a value has the unknown type {kind}")
        dtype = np.dtype(SCALARS[kind])
        if count > MOST_STRINGS:
            raise self.error(f"an array has {count} numbers; at most {MOST_STRINGS} are read")
        found: list[Any] = np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()
        return found

    def tensor(self, name: str) -> TensorFacts:
        dimensions = self.number()
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise self.error(f"the tensor {name!r} has {dimensions} dimensions")
        shape = struct.unpack(f"<{dimensions}Q", self.take(8 * dimensions))
        if not all(shape) or math.prod(shape) > LARGEST_DIMENSION:
            raise self.error(f"the tensor {name!r} has the shape {shape}")
        kind, offset = struct.unpack("<IQ", self.take(12))
        return TensorFacts(kind, tuple(reversed(shape)), offset)
