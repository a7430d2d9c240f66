"""The build's cache, for a backend that compiles what it runs: nothing is compiled twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from slmkit.system.cache import Cache

_FOLDER: ContextVar[Path | None] = ContextVar("build cache", default=None)


def build_cache() -> Cache | None:
    """The cache of the build that this process works for; None where there is none."""
    folder = _FOLDER.get()
    return None if folder is None else Cache(folder)


@contextlib.contextmanager
def using_cache(folder: Path | None) -> Iterator[None]:
    """Let backends find what is kept in ``folder`` while runners are opened within."""
    token = _FOLDER.set(folder)
    try:
        yield
    finally:
        _FOLDER.reset(token)
