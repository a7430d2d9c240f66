"""The external data file of ONNX graphs: offsets are planned first, bytes are streamed last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.backend.interface import Progress

ALIGNMENT = 4096  # bytes: external tensors start on a page, so that they can be mapped
Chunks = Callable[[], Iterator[NDArray[Any]]]


@dataclass(frozen=True)
class Region:
    """A byte range of the data file, shared by tensors of equal content; ``chunks`` yields it."""

    size: int
    chunks: Chunks
    offset: int


class DataFile:
    """One data file, shared by several graphs; equal content is stored once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.regions: dict[str, Region] = {}
        self.end = 0  # bytes
        self.written: set[str] = set()  # keys of ``regions`` that the file already has

    def reserve(self, content: str, size: int, chunks: Chunks) -> Region:
        """Return the region of the key ``content``; plan one of ``size`` bytes if it is new.

        Raises ValueError if the key is known with another size.
        """
        if content not in self.regions:
            offset = -(-self.end // ALIGNMENT) * ALIGNMENT
            self.regions[content] = Region(size, chunks, offset)
            self.end = offset + size
        region = self.regions[content]
        if region.size != size:
            raise ValueError(f"{content} has {region.size} bytes in one graph, {size} in another")
        return region

    def write(self, path: Path, progress: Progress) -> None:
        """Write the regions that the file does not have yet, one chunk in memory at a time.

        ``progress`` gets bytes done and bytes in all.
        """
        done = 0
        with open(path, "r+b" if self.written else "wb") as file:
            for content, region in self.regions.items():
                if content in self.written:
                    done += region.size
                    continue
                self.written.add(content)
                file.seek(region.offset)
                for chunk in region.chunks():
                    file.write(np.ascontiguousarray(chunk).data)
                    done += chunk.nbytes
                    progress(done, self.end)
                if file.tell() != region.offset + region.size:
                    raise ValueError(f"wrote {file.tell()} bytes, planned {region}")
            file.truncate(self.end)
