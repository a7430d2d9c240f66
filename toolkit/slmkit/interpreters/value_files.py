"""Values of an interpreter in files, which are written again when nobody needs them any more."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from slmkit.ops import Floats


@dataclass(frozen=True)
class Stored:
    """An array of float32 at the beginning of a file.

    Not a .npy file: NumPy reads its head with Python's parser, which two threads of Python 3.11
    cannot use at once.
    """

    path: Path
    shape: tuple[int, ...]

    def read(self) -> Floats:
        """The array, mapped into memory."""
        if 0 in self.shape:
            return np.empty(self.shape, np.float32)
        return np.memmap(self.path, np.float32, "r", shape=self.shape)


class ValueFiles:
    """The files of one folder.

    A file whose array is not needed any more gets another one of about its size. The pages of a
    new file may be memory that the machine has not touched yet: in a virtual machine that took
    fifteen times as long to write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = count(1)
        self.released: list[Path] = []  # somebody may still read them
        self.free: dict[int, list[Path]] = defaultdict(list)  # by the binary digits of their size

    def write(self, numbers: Floats) -> Stored:
        """Write an array into a file that is free, or a new one. Threads may write side by side."""
        try:
            path, mode = self.free[numbers.nbytes.bit_length()].pop(), "r+b"
        except IndexError:
            path, mode = self.folder / f"{next(self.made)}", "xb"
        with path.open(mode) as file:
            np.ascontiguousarray(numbers, np.float32).tofile(file)
        return Stored(path, numbers.shape)

    def release(self, array: Stored) -> None:
        """Nobody asks for this array any more."""
        self.released.append(array.path)

    def reuse(self) -> None:
        """Nobody reads what was released so far."""
        released, self.released = self.released, []
        for path in released:
            self.free[path.stat().st_size.bit_length()].append(path)
