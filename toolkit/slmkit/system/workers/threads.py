"""The threads that a job may use which runs beside others: its share of the cores.

Together they start no more threads than there are cores, so that none spins while it waits for one
that has no core.
"""

from __future__ import annotations

import os
from contextvars import ContextVar

VARIABLE = "SLMKIT_THREADS"  # in a worker process, its number of threads
LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # read by the libraries that workers load
SHARE: ContextVar[int | None] = ContextVar("share", default=None)  # None: all cores


def thread_settings() -> dict[str, str]:
    """Variables of a worker process with this job's share; none where it has all cores."""
    share = SHARE.get()
    return {} if share is None else dict.fromkeys((VARIABLE, *LIBRARIES), str(share))


def own_threads() -> int | None:
    """The number of threads that this process was given; None for all cores."""
    given = os.environ.get(VARIABLE, "")
    return int(given) if given.isdecimal() and int(given) else None
