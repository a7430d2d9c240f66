"""The output of worker processes: passed on to whoever listens, saved after a crash."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from slmkit.system.cache import default_folder

Listener = Callable[[str, bytes], None]  # (the worker's work, what it printed)
FOLDER = "failed-workers"  # in the default cache folder
PATIENCE = 5  # seconds for what a process that the worker started still prints
KEPT = 20  # files there; the oldest go first

_listeners: list[Listener] = []


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Pass on what workers that start within print, as they print it."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextlib.contextmanager
def collected(about: str) -> Iterator[tuple[IO[bytes], int]]:
    """A file for what a worker prints, and the descriptor that the worker writes to."""
    with tempfile.TemporaryFile() as file:
        if not _listeners:
            yield file, file.fileno()
            return
        reading, writing = os.pipe()
        thread = threading.Thread(target=_pass_on, args=(reading, file, about), daemon=True)
        thread.start()
        try:
            yield file, writing
        finally:
            os.close(writing)
            thread.join(PATIENCE)


def save(file: IO[bytes], about: str) -> Path | None:
    """Keep what a worker that failed had printed; None if it printed nothing, or there is no
    place."""
    file.flush()
    file.seek(0)
    if not file.read(1):
        return None
    file.seek(0)
    words = "-".join(about.replace("/", " ").split())[:60]
    path = default_folder() / FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{words}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as kept:
            shutil.copyfileobj(file, kept)
        for old in sorted(path.parent.glob("*.log"))[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError:
        return None
    return path


def _pass_on(reading: int, file: IO[bytes], about: str) -> None:
    """Copy a pipe into the file and to the listeners, until nobody writes to it any more."""
    with open(reading, "rb", buffering=0) as pipe:
        while part := pipe.read(1 << 16):
            file.write(part)
            for listener in tuple(_listeners):
                listener(about, part)
