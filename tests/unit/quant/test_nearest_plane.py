"""GPTQ: equal to the textbook's form, never worse after coordinate descent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg

from slmkit.quant import nearest_plane as nearest_plane_module
from slmkit.quant.linear_group import grid_of
from slmkit.quant.nearest_plane import Sweep, damped, descend, factorize, loss, nearest_plane
from slmkit.recipe.scheme import Scheme
from slmkit.system import cores

INT4 = Scheme(encoding="group-wise", bits=4, group_size=32, scales="two-level")
PALETTE = Scheme(encoding="palette", bits=4, group_rows=8)


def case(rows, width, seed, scheme=INT4):
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((4 * width, width)) @ random.standard_normal((width, width))
    hessian = damped((inputs.T @ inputs / len(inputs)).astype(np.float32), 0.03)
    weight = random.standard_normal((rows, width)).astype(np.float32)
    return weight, hessian, grid_of(scheme, weight, hessian.diagonal())


def textbook(weight, hessian, grid):
    """Frantar et al. 2022, algorithm 1: the inverse of H, and an update of W after each input."""
    order = np.argsort(-hessian.diagonal(), kind="stable")
    inverse = np.linalg.inv(hessian[np.ix_(order, order)].astype(np.float64))
    upper = np.linalg.cholesky(inverse).T
    left = weight[:, order].astype(np.float64)
    codes = np.empty(weight.T.shape, np.uint8)
    for at, name in enumerate(order):
        codes[name], numbers = grid.nearest(int(name), left[:, at].astype(np.float32))
        error = (left[:, at] - numbers) / upper[at, at]
        left[:, at:] -= np.outer(error, upper[at, at:])
    return codes


@pytest.mark.parametrize("scheme", [INT4, PALETTE], ids=["groups", "palette"])
@pytest.mark.parametrize(("rows", "width"), [(3, 5), (40, 64), (20, 150)])
def test_the_nearest_plane_is_gptq(scheme, rows, width):
    weight, hessian, grid = case(rows, width, 1, scheme)
    codes, errors = nearest_plane(weight, Sweep.of(hessian), grid)
    expected = textbook(weight, hessian, grid)
    assert np.mean(codes == expected) > 0.999  # a tie may fall otherwise
    numbers = np.stack([grid.numbers(at, codes[at]) for at in range(width)])
    np.testing.assert_allclose(errors, numbers - weight.T, atol=1e-5)


def test_inputs_without_correlation_are_rounded_to_nearest():
    weight, _, grid = case(10, 64, 2)
    hessian = np.diag(np.linspace(1, 3, 64)).astype(np.float32)
    codes, _ = nearest_plane(weight, Sweep.of(hessian), grid)
    expected = [grid.nearest(at, weight[:, at])[0] for at in range(64)]
    np.testing.assert_array_equal(codes, expected)


@given(
    st.sampled_from([INT4, PALETTE]), st.integers(1, 40), st.integers(1, 300), st.integers(0, 99)
)
def test_it_loses_less_than_rounding_and_descent_never_more(scheme, rows, width, seed):
    weight, hessian, grid = case(rows, width, seed, scheme)
    codes, errors = nearest_plane(weight, Sweep.of(hessian), grid)
    before = loss(errors, hessian)
    descend(errors, codes, hessian, grid)
    assert loss(errors, hessian) <= before * 1.0001 + 1e-9
    numbers = np.stack([grid.numbers(at, codes[at]) for at in range(width)])
    np.testing.assert_allclose(errors, numbers - weight.T, atol=1e-4)
    if rows >= 16 and width >= 64:
        rounded = [grid.nearest(at, weight[:, at])[1] - weight[:, at] for at in range(width)]
        assert before < loss(np.stack(rounded), hessian)


def test_parts_of_rows_give_the_codes_of_the_whole(monkeypatch):
    weight, hessian, grid = case(96, 70, 5)
    whole, _ = nearest_plane(weight, Sweep.of(hessian), grid)
    monkeypatch.setattr(cores, "ROWS", 32)
    parts, _ = nearest_plane(weight, Sweep.of(hessian), grid)
    assert np.mean(whole == parts) > 0.999  # products of other sizes may round otherwise


@pytest.mark.parametrize("scheme", [INT4, PALETTE], ids=["groups", "palette"])
def test_blocks_of_one_product_are_swept_as_one_after_another(scheme, monkeypatch):
    found = []
    for wide in (1, 300, 512):
        weight, hessian, grid = case(24, 600, 6, scheme)
        codes, errors = nearest_plane(weight, Sweep.of(hessian), grid)
        before = codes.copy()
        monkeypatch.setattr(nearest_plane_module, "WIDE", wide)
        descend(errors, codes, hessian, grid)
        assert (codes != before).any()
        found.append((codes, errors))
    for codes, errors in found[1:]:
        assert np.mean(codes == found[0][0]) > 0.999  # products of other sizes may round otherwise
        assert loss(errors, hessian) == pytest.approx(loss(found[0][1], hessian), rel=1e-3)


@pytest.mark.parametrize("scheme", [INT4, PALETTE], ids=["groups", "palette"])
def test_sums_that_another_machine_rounds_otherwise_lose_as_much(scheme):
    """Codes may differ from machine to machine, what they lose hardly does."""
    weight, hessian, grid = case(96, 128, 7, scheme)
    random = np.random.default_rng(8)
    noise = 1 + 1e-6 * random.standard_normal(hessian.shape).astype(np.float32)
    other = hessian * (noise + noise.T) / 2
    first, errors = nearest_plane(weight, Sweep.of(hessian), grid)
    second, changed = nearest_plane(weight, Sweep.of(other), grid)
    assert loss(changed, hessian) == pytest.approx(loss(errors, hessian), rel=0.01)
    assert np.mean(first == second) > 0.9


@given(st.integers(1, 20), st.integers(1, 60), st.integers(1, 70), st.integers(0, 99))
def test_the_loss_is_a_trace(rows, width, block, seed):
    random = np.random.default_rng(seed)
    errors = random.standard_normal((width, rows)).astype(np.float32)
    inputs = random.standard_normal((2 * width, width)).astype(np.float32)
    hessian = inputs.T @ inputs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_plane_module, "WIDE", block)
        found = loss(errors, hessian)
    assert found == pytest.approx(np.trace(errors.T @ hessian @ errors), rel=1e-4)


@given(st.integers(1, 60), st.integers(1, 30), st.integers(0, 99))
def test_the_loss_of_many_rows_is_that_of_some_among_them(rows, most, seed):
    errors = np.random.default_rng(seed).standard_normal((7, rows)).astype(np.float32)
    hessian = np.diag(np.arange(1, 8)).astype(np.float32)
    each = np.trace(errors.T @ hessian @ errors) if rows <= most else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_plane_module, "LOSS_ROWS", most)
        found = loss(errors, hessian)
        alike = loss(np.repeat(errors[:, :1], rows, axis=1), hessian)
    assert each is None or found == pytest.approx(each, rel=1e-4)
    assert alike == pytest.approx(rows * loss(errors[:, :1], hessian), rel=1e-4)


def test_a_matrix_that_float32_cannot_factorize_is_factorized_in_float64():
    """Inputs that are equal but for less than float32's noise."""
    exact = np.ones((40, 40)) + 3e-8 * np.eye(40)
    with pytest.raises(linalg.LinAlgError):
        linalg.cholesky(exact.astype(np.float32), lower=True)
    lower = np.tril(factorize(exact.copy))
    np.testing.assert_allclose(lower @ lower.T, exact, atol=1e-6)
