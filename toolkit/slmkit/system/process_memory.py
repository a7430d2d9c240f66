"""Memory of processes: the most that this one has held, what a tree of them holds now."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
REFERENCES = Path("/proc/self/clear_refs")  # of Linux: 5 makes the peak what is held now
# Numbers of glibc's mallopt (malloc.h), and how it is by itself.
TRIM, MMAP, ARENAS = -1, -3, -8
SIZE = 128 << 10  # bytes: glibc's threshold for either
FIELD = "VmHWM:"  # of Linux: the peak of the resident set since the program began, in kB


def peak_memory() -> int | None:
    """Bytes, or None where the system does not tell.

    Of Linux's two answers the one that begins anew with each program: ru_maxrss is inherited from
    the process that started this one.
    """
    if STATUS.exists():
        for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(FIELD):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def peak_with_children() -> int | None:
    """Bytes: the most that this process or any one that it started, and that has ended, held."""
    own = peak_memory()
    if own is None or sys.platform == "win32":
        return own
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(own, used if sys.platform == "darwin" else used * 1024)


def begin_anew() -> None:
    """Let ``peak_memory`` count from now on, where the system can do that (Linux)."""
    with contextlib.suppress(OSError):
        REFERENCES.write_text("5")


@contextlib.contextmanager
def kept_for_reuse() -> Iterator[None]:
    """Keep freed memory for the next arrays, where the C library is glibc.

    It would give large ones back to the system at once, which then clears the pages of the next:
    a sixth of the time of work that makes large arrays again and again.
    """
    library = _glibc()
    if library is None:
        yield
        return
    if not library.mallopt(MMAP, 1 << 30):
        library.mallopt(MMAP, 32 << 20)  # the most before glibc 2.35
    for number, value in ((TRIM, (1 << 31) - 1), (ARENAS, 1)):
        library.mallopt(number, value)
    try:
        yield
    finally:
        for number, value in ((MMAP, SIZE), (TRIM, SIZE), (ARENAS, 8 * (os.cpu_count() or 1))):
            library.mallopt(number, value)
        library.malloc_trim(0)


def give_back() -> None:
    """Return to the system what this process has freed, where the C library is glibc: it keeps the
    room of many small pieces, such as weights that a runtime packed, for later ones."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> Any:
    """The C library, if it is glibc."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if library is not None and hasattr(library, "mallopt") else None


def tree_memory(root: int) -> int | None:
    """Bytes that a process and all its descendants hold now; None where the system does not tell.

    Pages that several of them share are counted in each.
    """
    if not STATUS.exists():
        return None
    children, pages = dict[int, list[int]](), dict[int, int]()
    for folder in STATUS.parents[1].glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it ended meanwhile
            parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
            pages[int(folder.name)] = int((folder / "statm").read_text().split()[1])
            children.setdefault(int(parent), []).append(int(folder.name))
    wanted, total = [root], 0
    while wanted:
        each = wanted.pop()
        total += pages.get(each, 0)
        wanted += children.get(each, [])
    return total * os.sysconf("SC_PAGE_SIZE")


def free_memory() -> int | None:
    """Bytes that new processes can have; None where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
