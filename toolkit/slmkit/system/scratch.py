"""Folders that last as long as their process: each holds a lock, which the system releases when its
owner ends, however it ends. What nobody owns any more is cleared by the next start.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

PREFIX = ".slmkit-"
LOCK = "lock"  # the file in such a folder that its owner locks
UNLOCKED = 60  # seconds that a new folder may be without its lock

_lasting: list[Any] = []  # the process and its folder, once there is one
_open: list[tuple[int, Path]] = []  # this process's scratch folders by thread, the innermost last


@contextlib.contextmanager
def owned_folder(parent: Path, prefix: str = PREFIX) -> Iterator[Path]:
    """A new folder in ``parent`` that is gone afterwards; while it is open, it is locked.

    A parent that had to be made is gone too, if nothing else came into it.
    """
    made = [each for each in (parent, *parent.parents) if not each.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    folder, lock = _locked_folder(parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()
        with contextlib.suppress(OSError):
            for each in made:
                each.rmdir()


@contextlib.contextmanager
def scratch(near: Path | None = None) -> Iterator[Path]:
    """A folder for intermediate files: in ``near``, or in an open scratch folder that outlives it,
    else in the system's temporary folder. Leftovers beside it are cleared."""
    outer = _outer()
    if near is None and outer is not None:
        with tempfile.TemporaryDirectory(dir=outer, ignore_cleanup_errors=True) as inner:
            yield Path(inner)
        return
    parent = near or Path(tempfile.gettempdir())
    clear_leftovers(parent)
    with owned_folder(parent) as folder:
        known = threading.get_ident(), folder
        _open.append(known)
        try:
            yield folder
        finally:
            _open.remove(known)


def lasting_folder() -> Path:
    """A new folder in the system's temporary folder that lasts as long as this process."""
    if not _lasting or _lasting[0] != os.getpid():
        parent = Path(tempfile.gettempdir())
        clear_leftovers(parent)
        stack = contextlib.ExitStack()
        _lasting[:] = [os.getpid(), stack.enter_context(owned_folder(parent))]
        atexit.register(_close, stack, os.getpid())
    return Path(tempfile.mkdtemp(dir=_lasting[1]))


def _close(stack: contextlib.ExitStack, process: int) -> None:
    if process == os.getpid():  # not in a child that was forked
        stack.close()


def _outer() -> Path | None:
    """The innermost open folder of this thread or the main one: another thread's may go first."""
    lasting = threading.get_ident(), threading.main_thread().ident
    return next((folder for thread, folder in reversed(_open) if thread in lasting), None)


def clear_leftovers(
    parent: Path, prefix: str = PREFIX, rescue: Callable[[Path], None] | None = None
) -> None:
    """Remove the folders in ``parent`` whose owner has ended; ``rescue``: sees each one before."""
    with contextlib.suppress(OSError):  # a folder that cannot be listed has none of ours
        for folder in parent.glob(f"{glob.escape(prefix)}*"):
            with _ownerless(folder) as ownerless:
                if ownerless and rescue is not None:
                    rescue(folder)
                if ownerless:
                    shutil.rmtree(folder, ignore_errors=True)


def locked(file: IO[bytes] | int, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file until it is closed; False if somebody else has it.

    True too where the file system knows no locks.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, IO[bytes]]:
    while True:
        folder = parent / f"{prefix}{uuid.uuid4().hex[:12]}"
        folder.mkdir(mode=0o700)
        with contextlib.suppress(FileNotFoundError):  # cleared before it was locked
            lock = open(folder / LOCK, "wb")  # noqa: SIM115 - open as long as its folder
            if locked(lock) and (folder / LOCK).exists():
                return folder, lock
            lock.close()


@contextlib.contextmanager
def _ownerless(folder: Path) -> Iterator[bool]:
    """Whether a folder's owner has ended; meanwhile nobody else is told so."""
    try:
        lock = open(folder / LOCK, "r+b")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        yield time.time() - folder.stat().st_mtime > UNLOCKED
        return
    except OSError:
        yield False
        return
    with lock:
        yield _lockable(lock)


def _lockable(lock: IO[bytes]) -> bool:
    """Whether a lock was gained, truly: without locks, nothing is known of the owner."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
