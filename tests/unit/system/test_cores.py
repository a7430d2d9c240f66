"""Rows in parts: each once, on all cores, BLAS with one thread meanwhile."""

from __future__ import annotations

import sys
from threading import Barrier, Event
from time import sleep

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from slmkit.system.cores import CORES, WORKERS, in_parts, shared_out, side_by_side


def blas():
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


@given(st.integers(0, 300), st.integers(1, 400))
def test_each_row_is_worked_on_once(rows, most):
    counts, sizes = np.zeros(rows, int), []

    def work(part):
        counts[part] += 1
        sizes.append(part.stop - part.start)

    in_parts(work, rows, most)
    assert (counts == 1).all()
    assert max(sizes, default=0) <= most
    assert len(sizes) >= min(rows, CORES) or rows == 0


def test_blas_has_one_thread_meanwhile_and_its_own_afterwards():
    before, seen = blas(), []
    in_parts(lambda part: seen.append(blas()), 10)
    assert all(each == {1} for each in seen)
    assert blas() == before


def test_an_error_of_a_part_is_raised():
    def fail(part):
        raise ValueError(part.start)

    with pytest.raises(ValueError):
        in_parts(fail, 10)


def test_two_go_side_by_side_with_one_thread_each():
    both = Barrier(2)

    def work(number):
        both.wait(timeout=60)  # neither ends before the other began
        return number, blas()

    before = blas()
    assert side_by_side(lambda: work(0), lambda: work(1)) == ((0, {1}), (1, {1}))
    assert blas() == before


@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_of_either_is_raised(bad):
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda: 1 / bad, lambda: 1 / (1 - bad))


@given(st.integers(0, 30))
def test_numbers_are_shared_out_in_turn(count):
    shares = shared_out(list, count)
    assert shares == [list(range(first, count, WORKERS)) for first in range(WORKERS)]


def test_workers_go_side_by_side_and_share_the_cores():
    all_of_them = Barrier(WORKERS)

    def work(share):
        all_of_them.wait(timeout=60)
        return [(number, blas()) for number in share]

    before, threads = blas(), {max(1, CORES // WORKERS)}
    assert shared_out(work, WORKERS) == [[(number, threads)] for number in range(WORKERS)]
    assert blas() == before


@pytest.mark.parametrize("bad", range(WORKERS))
def test_workers_stop_when_one_fails(bad):
    failed = Event()

    def work(share):
        first = next(share, None)  # none if the other has failed already
        if first == bad:
            failed.set()
            raise ZeroDivisionError
        failed.wait(timeout=60)
        while next(share, None) is not None:  # endless, but for the failure
            sleep(0.001)

    with pytest.raises(ZeroDivisionError):
        shared_out(work, sys.maxsize)
