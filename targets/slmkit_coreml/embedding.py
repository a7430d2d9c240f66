"""The embedding table as a file of the bundle that an app maps into memory and reads row by row."""

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
    """int8 codes with float16 scales where the recipe has 8 bits, a byte per code with palettes
    where it has those, else float16 rows: all exact.

    Returns the format for the manifest. Number d of row r is file[r, d] * scales[r, d // group],
    or palettes[r // group_rows, file[r, d]], or file[r, d]; little-endian.
    """
    shape, scheme = codes.shapes[name], codes.schemes[name]
    with open(folder / FILE, "wb") as file:
        for first in range(0, shape[0], ROWS):
            block = _block(codes, name, slice(first, first + ROWS))
            file.write(np.ascontiguousarray(block).data)
    facts: dict[str, Any] = {"file": FILE, "shape": list(shape)}
    if scheme.encoding == "palette":
        palettes = codes.palette(name, slice(None)).palettes
        (folder / PALETTES).write_bytes(palettes.astype("<f2").tobytes())
        return {**facts, "dtype": "uint8", "palettes": PALETTES, "group_rows": scheme.group_rows}
    if scheme.bits != 8:
        return {**facts, "dtype": "float16"}
    (folder / SCALES).write_bytes(codes.scales(name).astype("<f2").tobytes())
    return {**facts, "dtype": "int8", "scales": SCALES, "group": group_of(scheme, shape[1])}


def _block(codes: CodesFile, name: str, rows: slice) -> NDArray[Any]:
    """Some rows as the file holds them."""
    scheme = codes.schemes[name]
    if scheme.encoding == "palette":
        return codes.palette(name, rows).codes
    if scheme.bits == 8:
        return codes.codes(name, rows).signed[:, : codes.shapes[name][1]]
    halves: NDArray[Any] = codes.rows(f"{name}.weight", rows).astype("<f2")
    return halves


def table_files(shape: tuple[int, ...], scheme: Scheme) -> dict[str, int]:
    """Bytes of each file that ``write_embedding`` writes for a table."""
    rows, width = shape
    if scheme.encoding == "palette":
        groups = -(-rows // (scheme.group_rows or rows))
        return {FILE: rows * width, PALETTES: groups * (2 << (scheme.bits or 8))}
    if scheme.bits != 8:
        return {FILE: rows * width * 2}
    return {FILE: rows * width, SCALES: rows * -(-width // group_of(scheme, width)) * 2}


class Embedding:
    """Reads rows of a written table."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        shape = tuple(facts["shape"])
        self.rows = np.memmap(folder / facts["file"], facts["dtype"], "r", shape=shape)
        self.facts = facts
        beside = facts.get("scales") or facts.get("palettes")
        if beside:
            halves = np.fromfile(folder / beside, "<f2").astype(np.float32)
            groups = shape[0] if "scales" in facts else -(-shape[0] // facts["group_rows"])
            self.beside = halves.reshape(groups, -1)

    def look_up(self, ids: NDArray[np.int64]) -> Floats:
        """(T,) -> (T, D) float32"""
        stored = self.rows[ids]
        if "palettes" in self.facts:
            palettes = self.beside[ids // self.facts["group_rows"]]
            return np.take_along_axis(palettes, stored.astype(np.int64), axis=1)
        rows: Floats = stored.astype(np.float32)
        if "scales" not in self.facts:
            return rows
        return rows * np.repeat(self.beside[ids], self.facts["group"], axis=1)[:, : rows.shape[1]]
