"""Rows in parts: each once, on all cores, BLAS with one thread meanwhile."""

from __future__ import annotations

from threading import Barrier

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from slmkit.quant.rows import CORES, in_parts, side_by_side


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


def test_two_go_side_by_side_in_their_order_and_share_the_cores():
    both = Barrier(2)

    def work(number):
        both.wait(timeout=60)  # neither ends before the other began
        return number, blas()

    before = blas()
    (first, threads), (second, _) = side_by_side(work)
    assert (first, second) == (0, 1)
    assert threads == {max(1, CORES // 2)}
    assert blas() == before


@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_of_either_is_raised(bad):
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda number: 1 / (number != bad))
