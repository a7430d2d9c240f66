"""The file of weights beside ONNX graphs: planned first, streamed at the end, shared by graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 4096  # bytes: external tensors start on a page, so that they can be mapped
Chunks = Callable[[], Iterator[NDArray[Any]]]


@dataclass(frozen=True)
class External:
    """Bytes of the data file: written once, named by one or more tensors."""

    size: int
    chunks: Chunks
    offset: int


class DataFile:
    """Places for external tensors in one file."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.externals: dict[str, External] = {}
        self.end = 0
        self.written: set[str] = set()

    def place(self, content: str, size: int, chunks: Chunks) -> External:
        """Where ``content`` lies: planned now if it is new."""
        if content not in self.externals:
            offset = -(-self.end // ALIGNMENT) * ALIGNMENT
            self.externals[content] = External(size, chunks, offset)
            self.end = offset + size
        place = self.externals[content]
        if place.size != size:
            raise ValueError(f"{content} has {place.size} bytes in one graph, {size} in another")
        return place

    def write(self, path: Path, progress: Callable[[int, int], None]) -> None:
        """Stream every tensor that is not there yet into the file, one chunk at a time."""
        done = 0
        with open(path, "r+b" if self.written else "wb") as file:
            for content, place in self.externals.items():
                if content in self.written:
                    done += place.size
                    continue
                self.written.add(content)
                file.seek(place.offset)
                for chunk in place.chunks():
                    file.write(np.ascontiguousarray(chunk).data)
                    done += chunk.nbytes
                    progress(done, self.end)
                if file.tell() != place.offset + place.size:
                    raise ValueError(f"wrote {file.tell()} bytes, planned {place}")
            file.truncate(self.end)
