"""Products and solutions in place: NumPy's numbers, in float32, without Python's lock."""

from __future__ import annotations

from threading import Thread
from time import monotonic

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.quant import blas

SIZES = st.integers(0, 70)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def positive(width, seed=0):
    inputs = random(3 * width + 1, width, seed=seed)
    return inputs.T @ inputs / np.float32(len(inputs)) + 0.1 * np.eye(width, dtype=np.float32)


@given(SIZES, SIZES)
def test_squares_are_added_to_the_upper_triangle(tokens, width):
    before, x = random(width, width), random(tokens, width, seed=1)
    sums = before.copy()
    blas.add_squares(sums, x)
    np.testing.assert_allclose(np.triu(sums), np.triu(before + x.T @ x), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(np.tril(sums, -1), np.tril(before, -1))


@given(SIZES, SIZES, SIZES)
def test_products_are_added(tokens, rows, width):
    before, y = random(rows, width), random(tokens, rows, seed=1)
    x, sums = random(tokens, width, seed=2), before.copy()
    blas.add_products(sums, y, x)
    np.testing.assert_allclose(sums, before + y.T @ x, rtol=1e-4, atol=1e-4)


@given(st.integers(1, 70), SIZES)
def test_a_factor_solves_rows(width, rows):
    matrix, wanted = positive(width), random(rows, width, seed=1)
    factor, found = matrix.copy(), wanted.copy()
    blas.factorize(factor)
    upper = np.triu(factor)
    np.testing.assert_allclose(upper.T @ upper, matrix, rtol=1e-4, atol=1e-4)
    blas.solve(factor, found)
    np.testing.assert_allclose(found @ matrix, wanted, rtol=1e-2, atol=1e-3)


def test_a_matrix_that_is_not_positive_definite_has_no_factor():
    with pytest.raises(np.linalg.LinAlgError, match="3 inputs"):
        blas.factorize(np.diag([1, 1, -1, 1]).astype(np.float32))


@pytest.mark.parametrize(
    "x", [random(8, 6).T, random(6, 8)[:, ::2], random(6, 8).astype(np.float64)]
)
def test_only_rows_of_float32_are_taken(x):
    with pytest.raises(ValueError, match="rows of float32"):
        blas.add_squares(np.zeros((x.shape[1],) * 2, np.float32), x)


def test_python_goes_on_meanwhile():
    matrix, times = positive(2000), []

    def work():
        times.append(monotonic())
        blas.factorize(matrix)
        times.append(monotonic())

    thread, ticks = Thread(target=work), []
    thread.start()
    while thread.is_alive():
        ticks.append(monotonic())
    began, ended = times
    margin = (ended - began) / 10
    assert any(began + margin < tick < ended - margin for tick in ticks)
