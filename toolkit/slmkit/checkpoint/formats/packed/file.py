"""The packed matrices of a checkpoint as one file of float matrices, beside its plain tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from slmkit.checkpoint.formats.packed import awq, bitsandbytes, compressed, gptq, mlx
from slmkit.checkpoint.formats.packed.matrix import Part, Parts, Stored
from slmkit.checkpoint.safetensors import Entry, SafetensorsFile
from slmkit.models.config import Config
from slmkit.ops import Floats
from slmkit.quant.codes import Codes
from slmkit.recipe.scheme import Scheme

SETTINGS = "quantization_config"
MLX_SETTINGS = "quantization"
METHOD = "quant_method"
BIAS = ".bias"


@dataclass(frozen=True)
class Format:
    """How a format's matrices are found and read."""

    marks: tuple[str, ...]  # what follows a module's name only in this format
    suffixes: tuple[str, ...]  # of all parts of a matrix
    read: Callable[[str, Parts, Config], Stored | None]


FORMATS = {
    "gptq": Format(gptq.MARKS, gptq.SUFFIXES, gptq.read),
    "awq": Format(awq.MARKS, awq.SUFFIXES, awq.read),
    "compressed-tensors": Format(compressed.MARKS, compressed.SUFFIXES, compressed.read),
    "bitsandbytes": Format(bitsandbytes.MARKS, bitsandbytes.SUFFIXES, bitsandbytes.read),
    "mlx": Format(mlx.MARKS, mlx.SUFFIXES, mlx.read),
}


@dataclass(frozen=True)
class PackedEntry(Entry):
    """One matrix; ``matrix``: how it is read."""

    matrix: Stored | None = None


class PackedFile:
    """All packed matrices of a checkpoint. Implements ``CodedFile``."""

    transformed = False  # vectors are those of the safetensors files, as the checkpoint has them
    name = "the packed matrices"

    def __init__(self, matrices: Iterable[Stored], settings: Config) -> None:
        self.settings = settings
        self.entries: dict[str, Entry] = {f"{each.module}.weight": entry(each) for each in matrices}

    def fingerprint(self) -> str:
        """SHA-256 of the settings: the parts are hashed with their files."""
        text = json.dumps(self.settings.values, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def floats(self, name: str, rows: Any = slice(None)) -> Floats:
        """``rows`` of a matrix as a new float32 array, dequantized."""
        with np.errstate(over="ignore", invalid="ignore"):  # refused as not finite, later
            return np.ascontiguousarray(self._matrix(name).floats(rows))

    def scheme(self, name: str) -> Scheme | None:
        """The scheme of the codes; None if none holds them. It reads all scales."""
        return self._matrix(name).scheme

    def rounded(self, name: str) -> bool:
        """Whether the scales or zero points of ``codes`` are not quite the stored ones."""
        return self._matrix(name).rounded

    def codes(self, name: str, rows: Any) -> Codes:
        """``rows`` of a matrix in its ``scheme``."""
        return self._matrix(name).codes(rows)

    def forget(self, name: str) -> None:
        """Release the memory-mapped pages of the matrix's parts."""
        self._matrix(name).release()

    def _matrix(self, name: str) -> Stored:
        found = self.entries[name]
        assert isinstance(found, PackedEntry) and found.matrix  # noqa: S101 - it makes no others
        return found.matrix


def entry(matrix: Stored) -> PackedEntry:
    """The entry of a matrix; its bytes are those of its parts together."""
    size = sum(part.entry.stop - part.entry.start for part in matrix.parts.values())
    return PackedEntry(matrix.label, matrix.shape, 0, size, coded=True, matrix=matrix)


def settings_of(config: Config) -> tuple[Format, Config] | None:
    """The format that config.json names, and its settings; None for other formats and for none.

    MLX's section has no method, or stands twice under both keys.
    """
    own = config.section(MLX_SETTINGS)
    if own is not None:
        return FORMATS["mlx"], own
    settings = config.section(SETTINGS)
    if settings is None:
        return None
    method = settings.values.get(METHOD)
    known = FORMATS.get(method) if isinstance(method, str) else None
    return None if known is None else (known, settings)


def take_matrices(
    stored: Mapping[str, Part], form: Format, settings: Config
) -> tuple[list[Stored], set[str]]:
    """The matrices of some tensors, and the names of those that are parts of one.

    Raises CheckpointError for parts that do not fit together.
    """
    modules = {
        name.removesuffix(mark) for name in stored for mark in form.marks if name.endswith(mark)
    }
    matrices, used = [], set[str]()
    for module in sorted(modules):
        parts = {
            suffix: stored[module + suffix] for suffix in form.suffixes if module + suffix in stored
        }
        matrix = form.read(module, parts, settings)
        if matrix is not None:
            matrices.append(matrix)
            used |= {part.name for part in parts.values()}
    return matrices, used


def with_packed(entries: Mapping[str, Entry], config: Config) -> dict[str, Entry]:
    """The tensors of some headers, with packed matrices in the place of their parts.

    Raises CheckpointError for parts that do not fit together.
    """
    known = settings_of(config)
    if known is None:
        return dict(entries)
    stored = {name: Part(name, each) for name, each in entries.items()}
    matrices, used = take_matrices(stored, *known)
    plain = {name: each for name, each in entries.items() if name not in used}
    return plain | {f"{each.module}.weight": entry(each) for each in matrices}


def likely_codes(found: Entry) -> tuple[Scheme | None, bool]:
    """The scheme of a matrix's codes by its shapes alone, None if it has none; and whether they
    are likely not quite the stored numbers."""
    if not isinstance(found, PackedEntry) or found.matrix is None:
        return None, False
    return found.matrix.likely_scheme, found.matrix.usually_rounded


def open_packed(
    files: Iterable[SafetensorsFile], config: Config, weights: Iterable[str]
) -> PackedFile | None:
    """The packed matrices of some files, whose parts are taken out of the files' entries.

    ``weights``: names of the model's tensors: a bias of zeros that is none of them is left out.
    None if config.json names no format that is read here, or no file has such matrices.
    """
    known = settings_of(config)
    if known is None:
        return None
    stored = {
        name: Part(name, entry, file) for file in files for name, entry in file.entries.items()
    }
    matrices, used = take_matrices(stored, *known)
    if not matrices:
        return None
    expected = {name.split(".layers.")[-1] for name in weights}
    for module in (each.module for each in matrices):
        bias = stored.get(module + BIAS)
        if bias and bias.name.split(".layers.")[-1] not in expected and not bias.floats().any():
            used.add(bias.name)  # AutoGPTQ writes one for each matrix
    for name in used:
        file = stored[name].file
        if file is not None:
            del file.entries[name]
    return PackedFile(matrices, known[1])
