"""The embedding table as a file of the bundle that an app maps into memory and reads row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.ops import Floats
from slmkit.quant.codes import CodesFile, group_of

FILE, SCALES = "embedding.bin", "embedding.scales.bin"
ROWS = 4096  # rows written at a time


def write_embedding(codes: CodesFile, name: str, folder: Path) -> dict[str, Any]:
    """int8 codes with float16 scales where the recipe has 8 bits, else float16 rows: both exact.

    Returns the format for the manifest. Number d of row r is file[r, d] * scales[r, d // group],
    little-endian.
    """
    rows, width = codes.shapes[name]
    scheme = codes.schemes[name]
    coded = scheme.bits == 8
    with open(folder / FILE, "wb") as file:
        for first in range(0, rows, ROWS):
            some = slice(first, first + ROWS)
            if coded:
                block: NDArray[Any] = codes.codes(name, some).signed[:, :width]
            else:
                block = codes.rows(f"{name}.weight", some).astype("<f2")
            file.write(np.ascontiguousarray(block).data)
    shape = [rows, width]
    if not coded:
        return {"file": FILE, "dtype": "float16", "shape": shape}
    scales = codes.scales(name)
    (folder / SCALES).write_bytes(scales.astype("<f2").tobytes())
    group = group_of(scheme, width)
    return {"file": FILE, "dtype": "int8", "shape": shape, "scales": SCALES, "group": group}


class Embedding:
    """Reads rows of a written table."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        shape = tuple(facts["shape"])
        self.rows = np.memmap(folder / facts["file"], facts["dtype"], "r", shape=shape)
        self.group: int = facts.get("group", 0)
        if self.group:
            halves = np.fromfile(folder / facts["scales"], "<f2")
            self.scales = halves.astype(np.float32).reshape(shape[0], -1)

    def look_up(self, ids: NDArray[np.int64]) -> Floats:
        """(T,) -> (T, D) float32"""
        rows: Floats = self.rows[ids].astype(np.float32)
        if not self.group:
            return rows
        return rows * np.repeat(self.scales[ids], self.group, axis=1)[:, : rows.shape[1]]
