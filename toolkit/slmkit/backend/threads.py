"""How many threads a runtime is to use: asked for by a command, else the runner's own choice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_ASKED: ContextVar[int | None] = ContextVar("threads", default=None)


def threads(default: int) -> int:
    """The number of threads that was asked for, else ``default``."""
    asked = _ASKED.get()
    return default if asked is None else asked


@contextlib.contextmanager
def asked_threads(count: int | None) -> Iterator[None]:
    """Ask for ``count`` threads of each runner that is opened within; None leaves it its own."""
    token = _ASKED.set(count)
    try:
        yield
    finally:
        _ASKED.reset(token)
