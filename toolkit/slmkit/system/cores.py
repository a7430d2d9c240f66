"""The machine's cores: rows of a matrix, some at a time, and how many threads BLAS has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from threading import Event
from typing import TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from slmkit.ops import Floats

ROWS = 4096  # of a weight that are swept at once: calls of NumPy cost more than their arithmetic
CORES = os.cpu_count() or 1
WORKERS = 2  # batches of tokens at once: each worker's sums take memory
S = TypeVar("S")
T = TypeVar("T")


def in_parts(work: Callable[[slice], None], rows: int, most: int = ROWS) -> None:
    """Do some work for all rows, at most ``most`` at a time, on all cores."""
    size = max(1, min(most, -(-rows // CORES)))
    parts = [slice(first, min(first + size, rows)) for first in range(0, rows, size)]
    with blas_threads(1), ThreadPoolExecutor(CORES) as pool:
        list(pool.map(work, parts))


def product(a: Floats, b: Floats) -> Floats:
    """The matrix product of ``a`` (N, K) and ``b`` (K, M)."""
    result = np.empty((len(a), b.shape[1]), np.float32)

    def multiply(rows: slice) -> None:
        np.matmul(a[rows], b, out=result[rows])

    in_parts(multiply, len(a))
    return result


def shared_out(work: Callable[[Iterator[int]], T], count: int) -> list[T]:
    """Share out the numbers below ``count``; return the results of ``work`` on each share.

    Workers go side by side, each on its part of the cores. A share does not depend on who is
    faster, so that sums over it have the same bytes in each run. If one fails, the others get no
    more numbers.
    """
    stop = Event()

    def share(first: int) -> Iterator[int]:
        for number in range(first, count, WORKERS):
            if stop.is_set():
                return
            yield number

    def run(first: int) -> T:
        try:
            return work(share(first))
        except BaseException:
            stop.set()
            raise

    with blas_threads(max(1, CORES // WORKERS)), ThreadPoolExecutor(WORKERS - 1) as pool:
        others = [pool.submit(run, first) for first in range(1, WORKERS)]
        return [run(0), *(each.result() for each in others)]


def side_by_side(first: Callable[[], S], second: Callable[[], T]) -> tuple[S, T]:
    """The results of both, each with one thread of BLAS."""
    with blas_threads(1), ThreadPoolExecutor(1) as pool:
        other = pool.submit(second)
        return first(), other.result()


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
