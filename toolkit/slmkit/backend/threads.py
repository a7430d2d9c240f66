"""How many threads a runtime is to use: asked for by a command, else the runner's own choice,
within what the process may use beside others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from slmkit.system.workers.threads import own_threads

_ASKED: ContextVar[int | None] = ContextVar("threads", default=None)


def threads(default: int) -> int:
    """The number of threads that was asked for, else ``default``: 0 for as many as there are cores.

    In a worker beside others the default is no more than its share of the cores.
    """
    asked, share = _ASKED.get(), own_threads()
    if asked is not None:
        return asked
    return default if share is None else min(default or share, share)


@contextlib.contextmanager
def asked_threads(count: int | None) -> Iterator[None]:
    """Ask for ``count`` threads of each runner that is opened within; None leaves it its own."""
    token = _ASKED.set(count)
    try:
        yield
    finally:
        _ASKED.reset(token)
