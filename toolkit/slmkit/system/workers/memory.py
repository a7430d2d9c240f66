"""The memory that a worker process may take, and who wants to know how much it took."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar

VARIABLE = "SLMKIT_MEMORY"  # in a worker process, the bytes that it was given
SHARE: ContextVar[int | None] = ContextVar("memory", default=None)  # bytes; None: nobody counts
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
    token = SHARE.set(share)
    try:
        yield
    finally:
        SHARE.reset(token)


def memory_settings() -> dict[str, str]:
    """Variables of a worker process with this job's share; none where nobody counts."""
    share = SHARE.get()
    return {} if share is None else {VARIABLE: str(share)}


def own_memory() -> int | None:
    """The bytes that this process was given; None where nobody counts."""
    given = os.environ.get(VARIABLE, "")
    return int(given) if given.isdecimal() else None
