"""The machine's cores: rows of a matrix, some at a time, and how many threads BLAS has."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

ROWS = 4096  # of a weight that are swept at once: calls of NumPy cost more than their arithmetic
CORES = os.cpu_count() or 1
T = TypeVar("T")


def in_parts(work: Callable[[slice], None], rows: int, most: int = ROWS) -> None:
    """Do some work for all rows, at most ``most`` at a time, on all cores."""
    size = max(1, min(most, -(-rows // CORES)))
    parts = [slice(first, min(first + size, rows)) for first in range(0, rows, size)]
    with blas_threads(1), ThreadPoolExecutor(CORES) as pool:
        list(pool.map(work, parts))


def side_by_side(of: Callable[[int], T]) -> tuple[T, T]:
    """``of(0)`` and ``of(1)``, each on half of the cores."""
    with blas_threads(max(1, CORES // 2)), ThreadPoolExecutor(1) as other:
        second = other.submit(of, 1)
        return of(0), second.result()


def blas_threads(count: int) -> AbstractContextManager[object]:
    """Let each product have ``count`` threads of BLAS.

    One is best beside threads of our own. BLAS's wait for each other in thousands of small
    products, and after each they spin for a while, on cores that others want.
    """
    limits: AbstractContextManager[object] = _blas().limit(limits=count, user_api="blas")
    return limits


@cache
def _blas() -> ThreadpoolController:
    """NumPy's BLAS and SciPy's: looking for them takes a millisecond."""
    import scipy.linalg  # noqa: F401

    return ThreadpoolController()
