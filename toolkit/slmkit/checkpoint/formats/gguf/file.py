"""A memory-mapped GGUF file: the tensors of a model by its own names, as floats and as codes."""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.formats.coded import Coded, Traits, codes_in, traits_of
from slmkit.checkpoint.formats.gguf.blocks import DECODERS, GROUP
from slmkit.checkpoint.formats.gguf.header import DAMAGED, Header, TensorFacts, read_header
from slmkit.checkpoint.formats.gguf.library import kinds, library, readable
from slmkit.checkpoint.formats.gguf.names import OF_ROPE, Place, stored_rows
from slmkit.checkpoint.safetensors import FLOATS, Entry, row_blocks
from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import Weight
from slmkit.ops import Floats
from slmkit.quant.codes import Codes
from slmkit.recipe.scheme import Scheme
from slmkit.system.plain_files import check_plain

BLOCK = 1 << 20  # numbers looked at, at a time


@dataclass(frozen=True)
class GgufEntry(Entry):
    """One tensor of a file, or one matrix of a stack."""

    kind: int = 0
    heads: int = 0  # see ``Place``


class GgufFile:
    """One file, or one part of a split one. Implements ``CodedFile``.

    Raises CheckpointError if the header does not describe the file.
    """

    transformed = True  # norms and Mamba's A are stored as they are used

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.map = path, *_opened(path)
        self.header = read_header(lambda size: memoryview(self.map), path.name)
        self.raw = {
            name: entry_of(name, facts, self.header, self.size, path.name)
            for name, facts in self.header.tensors.items()
        }
        self._refuse_overlaps()
        self.entries: dict[str, Entry] = dict(self.raw)
        self.schemes: dict[Entry, Scheme | None] = {}

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        with open(self.path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def rename(self, places: Mapping[str, Place], weights: Mapping[str, Weight]) -> None:
        """Give the tensors the names and shapes of a model: ``places`` by its names. Those that
        are metadata of rope are left out; others keep their names, and are refused later."""
        entries, used = dict[str, Entry](), set(OF_ROPE)
        for tensor, place in places.items():
            if place.name in self.raw:
                entry = _part(self.raw[place.name], place)
                entries[tensor] = _shaped(entry, weights[tensor])
                used.add(place.name)
        self.entries = entries | {
            name: entry for name, entry in self.raw.items() if name not in used
        }

    def floats(self, name: str, rows: Any = slice(None)) -> Floats:
        """``rows`` of a tensor as a new float32 array, dequantized."""
        entry = self._entry(name)
        stored = self._stored(entry, rows)
        kind = kinds()[entry.kind][0]
        if kind == "F64":
            values = stored.view("<f8").astype(np.float32)
        else:
            quants = library("gguf.quants")
            with np.errstate(over="ignore", invalid="ignore"):  # refused as not finite, later
                values = quants.dequantize(_typed(stored, kind), _quant_type(entry.kind))
        floats: Floats = np.array(values, np.float32)
        vector = len(entry.shape) == 1
        return floats.reshape(-1) if vector else floats.reshape(len(stored), *entry.shape[1:])

    def scheme(self, name: str) -> Scheme | None:
        """The scheme that holds the stored codes exactly; reads all scales."""
        entry = self._entry(name)
        if entry not in self.schemes:
            self.schemes[entry] = self._find_scheme(entry)
        return self.schemes[entry]

    def rounded(self, name: str) -> bool:
        """Codes are exactly the stored numbers, or there are none."""
        return False

    def codes(self, name: str, rows: Any) -> Codes:
        """``rows`` of a matrix in its ``scheme``."""
        scheme = self.scheme(name)
        if scheme is None:
            raise ValueError(f"{name}: no scheme holds its codes")
        entry = self._entry(name)
        return codes_in(self._decoded(entry, rows), scheme, entry.shape[1])

    def forget(self, name: str) -> None:
        """Release the tensor's memory-mapped pages."""
        if not hasattr(self.map, "madvise"):
            return  # Windows
        entry = self.entries[name]
        start = entry.start // mmap.PAGESIZE * mmap.PAGESIZE
        self.map.madvise(mmap.MADV_DONTNEED, start, entry.stop - start)

    def _entry(self, name: str) -> GgufEntry:
        entry = self.entries[name]
        assert isinstance(entry, GgufEntry)  # noqa: S101 - the only kind that it makes
        return entry

    def _stored(self, entry: GgufEntry, rows: Any) -> NDArray[np.uint8]:
        """The bytes of some rows, in the model's order. (rows, bytes)"""
        count = 1 if entry.coded and len(entry.shape) == 1 else entry.shape[0]
        whole = np.frombuffer(self.map, np.uint8, entry.stop - entry.start, entry.start)
        whole = whole.reshape(count, -1)
        if entry.heads:
            rows = stored_rows(count, entry.heads)[rows]
        chosen: NDArray[np.uint8] = np.ascontiguousarray(whole[rows])
        return chosen

    def _decoded(self, entry: GgufEntry, rows: Any) -> Coded:
        kind, _, size = kinds()[entry.kind]
        stored = self._stored(entry, rows)
        return DECODERS[kind](stored.reshape(len(stored), -1, size))

    def _find_scheme(self, entry: GgufEntry) -> Scheme | None:
        if kinds()[entry.kind][0] not in DECODERS or len(entry.shape) != 2:
            return None
        found, bits = Traits(), 8
        for rows in row_blocks(*entry.shape, BLOCK):
            coded = self._decoded(entry, rows)
            found, bits = found & traits_of(coded), coded.bits
            if not found.exact:
                break
        return found.scheme(bits, GROUP)

    def _refuse_overlaps(self) -> None:
        end = 0
        for name, entry in sorted(self.raw.items(), key=lambda item: item[1].start):
            if entry.start < end:
                raise CheckpointError(f"{self.name}: tensor {name} overlaps another", DAMAGED)
            end = entry.stop


def entry_of(name: str, facts: TensorFacts, header: Header, size: int, where: str) -> GgufEntry:
    """The entry of one tensor of a header, checked. ``size``: of the file, in bytes."""
    if facts.kind not in kinds():
        raise CheckpointError(
            f"{where}: tensor {name} has the unknown type {facts.kind}",
            "a newer package gguf may know it: pip install -U gguf",
        )
    kind, numbers, width = kinds()[facts.kind]
    if facts.shape[-1] % numbers:
        raise CheckpointError(
            f"{where}: tensor {name} of {kind} has rows of {facts.shape[-1]} numbers, which are no "
            f"whole blocks of {numbers}",
            DAMAGED,
        )
    start = header.data + facts.offset
    stop = start + math.prod(facts.shape) // numbers * width
    if stop > size:
        raise CheckpointError(
            f"{where} is truncated: tensor {name} ends at byte {stop}, the file has {size}", DAMAGED
        )
    coded = kind not in FLOATS and kind in readable()
    return GgufEntry(kind, facts.shape, start, stop, coded, facts.kind)


def _opened(path: Path) -> tuple[int, mmap.mmap]:
    try:
        size = check_plain(path)
        with open(path, "rb") as file:
            return size, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise CheckpointError(f"{path.name} cannot be read: {error}", DAMAGED) from None


def _part(entry: GgufEntry, place: Place) -> GgufEntry:
    """The entry of a place: of a stack of experts, one of them."""
    start, stop, shape = entry.start, entry.stop, entry.shape
    if place.expert is not None:
        count, *rest = shape
        size = (stop - start) // count
        if place.expert >= count or not rest:
            raise CheckpointError(f"{place.name} has no expert {place.expert}", DAMAGED)
        start, shape = start + place.expert * size, tuple(rest)
        stop = start + size
    rows = shape[0]
    if place.heads and rows % (2 * place.heads):
        raise CheckpointError(f"{place.name} has {rows} rows for {place.heads} heads", DAMAGED)
    return GgufEntry(entry.dtype, tuple(shape), start, stop, entry.coded, entry.kind, place.heads)


def _shaped(entry: GgufEntry, weight: Weight) -> GgufEntry:
    """With the shape that the checkpoint's own format has, where only ones differ: (C, 1, K)."""
    wanted = weight.stored or weight.shape
    if [each for each in wanted if each > 1] != [each for each in entry.shape if each > 1]:
        return entry
    values = (entry.dtype, wanted, entry.start, entry.stop, entry.coded, entry.kind, entry.heads)
    return GgufEntry(*values)


def _typed(stored: NDArray[np.uint8], kind: str) -> NDArray[Any]:
    types = {"F32": "<f4", "F16": "<f2"}
    return stored.view(types[kind]) if kind in types else stored


def _quant_type(kind: int) -> Any:
    return library("gguf.constants").GGMLQuantizationType(kind)
