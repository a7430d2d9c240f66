"""The safetensors format: a memory-mapped reader that checks the header, and a writer.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}},
then the data without gaps (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.errors import CheckpointError
from slmkit.ops import Floats
from slmkit.system.plain_files import check_plain

HEADER_LIMIT = 100_000_000  # bytes; the same limit as the safetensors library
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # NumPy has no bfloat16; its bits are the upper half of a float32
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
}
FLOATS = ("F64", "F32", "F16", "BF16")
DAMAGED = "the file is damaged or was changed: download it again"


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its type, shape and byte range from the file's start."""

    dtype: str  # a key of DTYPES; of codes, in the words of their format
    shape: tuple[int, ...]
    start: int
    stop: int
    coded: bool = False  # integers and scales that stand for a float matrix

    @property
    def is_float(self) -> bool:
        """Whether it can be read as floats."""
        return self.coded or self.dtype in FLOATS


def unstack(name: str, entry: Entry) -> dict[str, Entry]:
    """Entries of the E matrices in a tensor of shape (E, rows, columns).

    NAME.weight becomes NAME.0.weight, NAME.1.weight and so on.
    """
    count, *shape = entry.shape
    size, stem = (entry.stop - entry.start) // max(1, count), name.removesuffix("weight")
    starts = [entry.start + number * size for number in range(count)]
    return {
        f"{stem}{number}.weight": Entry(entry.dtype, tuple(shape), start, start + size)
        for number, start in enumerate(starts)
    }


class SafetensorsFile:
    """A memory-mapped file.

    Raises CheckpointError if the header does not describe the file exactly: truncated, with gaps,
    overlaps, unknown types or duplicate names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            check_plain(path)
        except OSError as error:
            raise CheckpointError(f"{path.name} cannot be read: {error}", DAMAGED) from None
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            header, begin = _read_header(file.read(8), file.read, path, size)
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.metadata: Mapping[str, str] = header.pop("__metadata__", {})
        self.entries = _entries(header, begin, size, path)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        with open(self.path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def array(self, name: str) -> NDArray[Any]:
        """View of a tensor as stored; BF16 as uint16."""
        return self.view(self.entries[name])

    def view(self, entry: Entry) -> NDArray[Any]:
        """View of the tensor that an entry of this file tells of."""
        flat = np.frombuffer(
            self.map, DTYPES[entry.dtype], math.prod(entry.shape), offset=entry.start
        )
        return flat.reshape(entry.shape)

    def floats(self, name: str, rows: slice | NDArray[np.int64] = slice(None)) -> Floats:
        """``rows`` of a float tensor as a new float32 array."""
        return as_float32(self.array(name)[rows], self.entries[name].dtype)

    def forget(self, name: str) -> None:
        """Release the tensor's memory-mapped pages; they are read again on the next access."""
        self.release(self.entries[name])

    def release(self, entry: Entry) -> None:
        """Release the pages of the tensor that an entry of this file tells of."""
        if not hasattr(self.map, "madvise"):
            return  # Windows
        start = entry.start // mmap.PAGESIZE * mmap.PAGESIZE
        if entry.stop > start:
            self.map.madvise(mmap.MADV_DONTNEED, start, entry.stop - start)


def as_float32(stored: NDArray[Any], dtype: str) -> Floats:
    """Stored numbers of a type of FLOATS as a new float32 array."""
    if dtype == "BF16":
        widened: Floats = (stored.astype(np.uint32) << 16).view(np.float32)
        return widened
    with np.errstate(over="ignore"):  # a double beyond float32 is infinite, and refused as such
        return stored.astype(np.float32)


def read_entries(fetch: Callable[[int], bytes], size: int, name: str) -> dict[str, Entry]:
    """The tensors of a file's header. ``fetch``: gives the file's first bytes; ``size``: of the
    file. Raises CheckpointError, as ``SafetensorsFile``."""
    path, prefix = Path(name), fetch(8)[:8]
    header, begin = _read_header(
        prefix, lambda length: fetch(8 + length)[8 : 8 + length], path, size
    )
    header.pop("__metadata__", None)
    return _entries(header, begin, size, path)


def _read_header(prefix: bytes, read: Any, path: Path, size: int) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > min(size - 8, HEADER_LIMIT):
        raise CheckpointError(
            f"{path.name} is truncated: its header says {length} bytes, the file has {size}",
            DAMAGED,
        )
    try:
        header = json.loads(read(length), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name}: the header is not JSON: {error}", DAMAGED) from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path.name}: the header is not a JSON object", DAMAGED)
    return header, 8 + length


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _entries(header: dict[str, Any], begin: int, size: int, path: Path) -> dict[str, Entry]:
    entries = {name: _entry(name, facts, begin, path) for name, facts in header.items()}
    end = begin
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start < end:
            raise CheckpointError(f"{path.name}: tensor {name} overlaps another tensor", DAMAGED)
        if entry.start > end:
            raise CheckpointError(f"{path.name}: a hole of bytes before tensor {name}", DAMAGED)
        end = entry.stop
    if end > size:
        raise CheckpointError(
            f"{path.name} is truncated: its tensors need {end} bytes, the file has {size}", DAMAGED
        )
    if end < size:
        raise CheckpointError(
            f"{path.name}: {size - end} bytes after the last tensor belong to none", DAMAGED
        )
    return entries


def _entry(name: str, facts: Any, begin: int, path: Path) -> Entry:
    try:
        dtype, shape, (start, stop) = facts["dtype"], facts["shape"], facts["data_offsets"]
        whole = [*shape, start, stop]
        if not all(type(number) is int and number >= 0 for number in whole):
            raise ValueError(whole)
    except (TypeError, KeyError, ValueError):
        raise CheckpointError(
            f"{path.name}: the header's entry of tensor {name} is malformed", DAMAGED
        ) from None
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(
            f"{path.name}: tensor {name} has the unknown type {dtype!r}",
            f"slmkit reads weights stored as {', '.join(FLOATS)}",
        )
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if stop - start != expected:
        raise CheckpointError(
            f"{path.name}: tensor {name} of {dtype} {tuple(shape)} needs {expected} bytes, "
            f"its offsets give {stop - start}",
            DAMAGED,
        )
    return Entry(dtype, tuple(shape), begin + start, begin + stop)


class SafetensorsWriter:
    """Writes a file whose tensors are declared first: in any order, a block of rows at a time.

    Used as a context manager; leaving it with unwritten bytes is a ValueError.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, tuple[str, tuple[int, ...]]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write the header. ``tensors``: name -> (a key of DTYPES, shape).

        Tensors lie in order of item size, then name, so that each is aligned to its items.
        """
        self.entries: dict[str, Entry] = {}
        self.missing: dict[str, int] = {}  # bytes not written yet
        header: dict[str, Any] = {"__metadata__": dict(sorted((metadata or {}).items()))}
        offset = 0
        for name in sorted(tensors, key=lambda key: (-DTYPES[tensors[key][0]].itemsize, key)):
            dtype, shape = tensors[name]
            size = math.prod(shape) * DTYPES[dtype].itemsize
            header[name] = {
                "dtype": dtype,
                "shape": list(shape),
                "data_offsets": [offset, offset + size],
            }
            self.entries[name] = Entry(dtype, shape, offset, offset + size)
            self.missing[name] = size
            offset += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.begin = 8 + len(text)
        self.file = open(path, "wb")  # noqa: SIM115 - closed by __exit__
        self.file.write(len(text).to_bytes(8, "little") + text)
        self.file.truncate(self.begin + offset)

    def put(self, name: str, array: NDArray[Any], first_row: int = 0) -> None:
        """Write ``array`` as rows from ``first_row`` on. Raises ValueError for a wrong shape."""
        entry = self.entries[name]
        if array.dtype != DTYPES[entry.dtype] or array.shape[1:] != entry.shape[1:]:
            raise ValueError(f"{name}: {array.dtype} {array.shape} does not fit {entry}")
        row = math.prod(entry.shape[1:]) * DTYPES[entry.dtype].itemsize
        self.file.seek(self.begin + entry.start + first_row * row)
        self.file.write(np.ascontiguousarray(array).data)
        self.missing[name] -= array.nbytes

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.file.close()
        unwritten = [name for name, size in self.missing.items() if size]
        if error is None and unwritten:
            raise ValueError(f"tensors not written whole: {unwritten}")


def row_blocks(rows: int, width: int, elements: int, multiple: int = 1) -> Iterator[slice]:
    """Slices of consecutive rows, of about ``elements`` elements each.

    Every slice but the last has a multiple of ``multiple`` rows, at least that many.
    """
    step = max(multiple, elements // max(1, width) // multiple * multiple)
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))
