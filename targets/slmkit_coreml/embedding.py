"""The embedding table as a file of its own, which an app maps into memory and reads by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.ops import Floats
from slmkit.quant.codes import CodesFile, group_of
from slmkit.recipe.scheme import Scheme

FILE, SCALES, PALETTES = "embedding.bin", "embedding.scales.bin", "embedding.palettes.bin"
ROWS = 4096  # rows written at a time


def write_embedding(codes: CodesFile, name: str, folder: Path) -> dict[str, Any]:
    """Write the table into ``folder``; return its format for the manifest.

    The recipe decides the format, and each is exact: int8 codes with float16 scales for 8 bits, a
    byte per code with float16 palettes for palettes, else float16 rows. Column d of row r is
    file[r, d] * scales[r, d // group], or palettes[r // group_rows, file[r, d]], or file[r, d].
    All files are little-endian.
    """
    shape, scheme = codes.shapes[name], codes.schemes[name]
    with open(folder / FILE, "wb") as file:
        for first in range(0, shape[0], ROWS):
            rows = _stored_rows(codes, name, slice(first, first + ROWS))
            file.write(np.ascontiguousarray(rows).data)
    facts: dict[str, Any] = {"file": FILE, "shape": list(shape)}
    if scheme.encoding == "palette":
        palettes = codes.palette(name, slice(None)).palettes
        (folder / PALETTES).write_bytes(palettes.astype("<f2").tobytes())
        return {**facts, "dtype": "uint8", "palettes": PALETTES, "group_rows": scheme.group_rows}
    if scheme.bits != 8:
        return {**facts, "dtype": "float16"}
    (folder / SCALES).write_bytes(codes.scales(name).astype("<f2").tobytes())
    return {**facts, "dtype": "int8", "scales": SCALES, "group": group_of(scheme, shape[1])}


def _stored_rows(codes: CodesFile, name: str, rows: slice) -> NDArray[Any]:
    """Rows as the file holds them: codes, or float16."""
    scheme = codes.schemes[name]
    if scheme.encoding == "palette":
        return codes.palette(name, rows).codes
    if scheme.bits == 8:
        return codes.codes(name, rows).signed[:, : codes.shapes[name][1]]
    halves: NDArray[Any] = codes.rows(f"{name}.weight", rows).astype("<f2")
    return halves


def table_file_sizes(shape: tuple[int, ...], scheme: Scheme) -> dict[str, int]:
    """Size in bytes of each file that ``write_embedding`` writes for a table of this shape."""
    rows, width = shape
    if scheme.encoding == "palette":
        groups = -(-rows // (scheme.group_rows or rows))
        return {FILE: rows * width, PALETTES: groups * (2 << (scheme.bits or 8))}
    if scheme.bits != 8:
        return {FILE: rows * width * 2}
    return {FILE: rows * width, SCALES: rows * -(-width // group_of(scheme, width)) * 2}


class Embedding:
    """Read rows of a written table."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        shape = tuple(facts["shape"])
        self.rows = np.memmap(folder / facts["file"], facts["dtype"], "r", shape=shape)
        self.facts = facts
        if "scales" in facts:
            self.scales = _read_float16(folder / facts["scales"], shape[0])
        if "palettes" in facts:
            groups = -(-shape[0] // facts["group_rows"])
            self.palettes = _read_float16(folder / facts["palettes"], groups)

    def look_up(self, ids: NDArray[np.int64]) -> Floats:
        """Rows of token ids, float32. (T,) -> (T, D)"""
        stored = self.rows[ids]
        if "palettes" in self.facts:
            palettes = self.palettes[ids // self.facts["group_rows"]]
            return np.take_along_axis(palettes, stored.astype(np.int64), axis=1)
        rows: Floats = stored.astype(np.float32)
        if "scales" not in self.facts:
            return rows
        scales = np.repeat(self.scales[ids], self.facts["group"], axis=1)
        return rows * scales[:, : rows.shape[1]]


def _read_float16(path: Path, rows: int) -> Floats:
    """A file of float16 numbers as float32. [rows, columns]"""
    return np.fromfile(path, "<f2").astype(np.float32).reshape(rows, -1)
