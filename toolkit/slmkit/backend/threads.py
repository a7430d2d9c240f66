"""How many threads a runtime is to use: asked for by a command, else the runner's own choice,
within what the process may use beside others."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from contextvars import ContextVar

from slmkit.system.workers.threads import own_threads

_TAKEN: list[socket.socket] = []  # while this process lives
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


def keep_to_one_core() -> None:
    """Let this thread, and those that it begins, run on one core alone, if that is this process's
    share of them: on one that no other such process has.

    For libraries whose threads hand work to each other by spinning: on one core they take turns
    instead. Does nothing where the system has no such setting.
    """
    if own_threads() != 1 or not hasattr(os, "sched_setaffinity"):
        return
    for core in sorted(os.sched_getaffinity(0)):
        taken = socket.socket(socket.AF_UNIX)
        try:
            taken.bind(f"\0slmkit-core-{core}")  # Linux: a name without a file, until the end
        except OSError:
            taken.close()
            continue
        _TAKEN.append(taken)
        os.sched_setaffinity(0, {core})
        return
