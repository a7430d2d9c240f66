"""The memory that a worker process may take, and who wants to know how much it took."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar

VARIABLE = "SLMKIT_MEMORY"  # in a worker process, the bytes that it was given
LIMIT_VARIABLE = "SLMKIT_MEMORY_LIMIT"  # in a worker process, the bytes that it may not pass
# A runtime maps up to so many times what it holds (measured: ONNX Runtime 1.55, QNN 1.36).
UNTOUCHED = 1.6
SHARE: ContextVar[int | None] = ContextVar("memory", default=None)  # bytes; None: nobody counts
LIMIT: ContextVar[int | None] = ContextVar("limit", default=None)  # bytes; None: no limit
# Bytes, the peak of each worker that ended in this context: of the current stage.
PEAKS: ContextVar[list[int] | None] = ContextVar("peaks", default=None)


def note_peak(peak: int | None) -> None:
    """Add a worker's peak to those of the current stage, if anybody keeps them."""
    wanted = PEAKS.get()
    if wanted is not None and peak is not None:
        wanted.append(peak)


@contextlib.contextmanager
def given_memory(share: int | None) -> Iterator[None]:
    """Give so many bytes to the workers of what is done or started within."""
    with _set(SHARE, share):
        yield


@contextlib.contextmanager
def limited_memory(limit: int | None) -> Iterator[None]:
    """Let no worker that is started within hold more bytes, where the system can see to that."""
    with _set(LIMIT, limit):
        yield


@contextlib.contextmanager
def _set(variable: ContextVar[int | None], value: int | None) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def memory_settings() -> dict[str, str]:
    """Variables of a worker process with this job's share and limit; none where nobody counts."""
    given = {VARIABLE: SHARE.get(), LIMIT_VARIABLE: LIMIT.get()}
    return {name: str(value) for name, value in given.items() if value is not None}


def keep_limit() -> None:
    """In a worker, let the system hold this process, and each that it starts, to the limit:
    RLIMIT_DATA, by which Linux counts what a process maps for data, touched or not."""
    limit = own_limit()
    if limit is None or sys.platform != "linux":
        return
    import resource

    hard, wanted = resource.getrlimit(resource.RLIMIT_DATA)[1], int(limit * UNTOUCHED)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def own_memory() -> int | None:
    """The bytes that this process was given; None where nobody counts."""
    return _bytes_of(VARIABLE)


def own_limit() -> int | None:
    """The bytes that this process may not pass; None without a limit."""
    return _bytes_of(LIMIT_VARIABLE)


def _bytes_of(variable: str) -> int | None:
    given = os.environ.get(variable, "")
    return int(given) if given.isdecimal() else None
