"""Grids: the nearest code is the nearest, and better scales and palettes lose less."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.quant import affine_grid
from slmkit.quant.codes import CodesFile
from slmkit.quant.files import metadata, packed, write
from slmkit.quant.grid import BLOCK
from slmkit.quant.linear_group import grid_of
from slmkit.quant.nearest_plane import damped, loss
from slmkit.recipe.scheme import Scheme

SCHEMES = {
    "two-level": Scheme(encoding="group-wise", bits=4, group_size=32, scales="two-level"),
    "free": Scheme(encoding="group-wise", bits=4, group_size=32),
    "asymmetric": Scheme(encoding="group-wise", bits=4, group_size=32, symmetric=False),
    "per-channel": Scheme(encoding="per-channel", bits=8),
    "palette of 16": Scheme(encoding="palette", bits=4, group_rows=8),
    "palette of 8": Scheme(encoding="palette", bits=3, group_rows=16),
}


def case(name, rows, width, seed):
    random = np.random.default_rng(seed)
    floats = random.standard_normal((rows, width)).astype(np.float32)
    return floats, grid_of(SCHEMES[name], floats, np.ones(width, np.float32)), random


def nearest(floats, grid):
    """Codes and errors, (K, N)."""
    pairs = [grid.nearest(at, floats[:, at]) for at in range(floats.shape[1])]
    return np.stack([codes for codes, _ in pairs]), np.stack(
        [found for _, found in pairs]
    ) - floats.T


@given(st.sampled_from(sorted(SCHEMES)), st.integers(1, 40), st.integers(1, 70), st.integers(0, 99))
def test_no_code_is_nearer_than_the_nearest(name, rows, width, seed):
    floats, grid, random = case(name, rows, width, seed)
    at = int(random.integers(width))
    codes, numbers = grid.nearest(at, floats[:, at])
    np.testing.assert_array_equal(grid.numbers(at, codes), numbers)
    for code in range(1 << (SCHEMES[name].bits or 0)):
        others = grid.numbers(at, np.full(rows, code, np.uint8))
        assert (np.abs(floats[:, at] - numbers) <= np.abs(floats[:, at] - others) * 1.00001).all()


@given(st.sampled_from(sorted(SCHEMES)), st.integers(1, 40), st.integers(1, 70), st.integers(0, 99))
def test_several_inputs_at_once_have_the_codes_of_each(name, rows, width, seed):
    floats, grid, random = case(name, rows, width, seed)
    inputs = random.permutation(width)[: width // 2 + 1]
    codes, numbers = grid.nearest(inputs, np.ascontiguousarray(floats.T[inputs]))
    np.testing.assert_array_equal(grid.numbers(inputs, codes), numbers)
    for at, *found in zip(inputs.tolist(), codes, numbers, strict=True):
        np.testing.assert_array_equal(grid.nearest(at, floats[:, at]), found)


def test_scales_of_parts_are_those_of_the_whole(monkeypatch):
    random = np.random.default_rng(3)
    floats = random.standard_normal((50, 70)).astype(np.float32)
    weights = random.lognormal(0, 1, 70).astype(np.float32)
    for scheme in SCHEMES.values():
        whole = grid_of(scheme, floats, weights).arrays()
        monkeypatch.setattr(affine_grid, "SEARCHED", 7 * 70)
        parts = grid_of(scheme, floats, weights).arrays()
        monkeypatch.undo()
        for name, array in whole.items():
            np.testing.assert_array_equal(parts[name], array)


def lost_where_it_counts(name, rows, seed):
    """The weighted error of scales that were searched with the weights, and without them."""
    random = np.random.default_rng(seed)
    floats = random.standard_normal((rows, 75)).astype(np.float32)
    weights = random.lognormal(0, 2, 75).astype(np.float32)
    for counted in (weights, np.ones_like(weights)):
        _, errors = nearest(floats, grid_of(SCHEMES[name], floats, counted))
        yield float((np.square(errors) * weights[:, None]).sum())


@given(st.sampled_from(["free", "asymmetric"]), st.integers(1, 20), st.integers(0, 99))
def test_scales_lose_least_where_errors_count(name, rows, seed):
    weighted, plain = lost_where_it_counts(name, rows, seed)
    assert weighted <= plain * 1.0001


def test_two_level_scales_lose_less_where_errors_count():
    """Over many rows: in one, the multipliers next to the best free scales may not be the best."""
    weighted, plain = lost_where_it_counts("two-level", 64, 1)
    assert weighted < plain


@given(st.sampled_from(sorted(SCHEMES)), st.integers(1, 40), st.integers(1, 70), st.integers(0, 99))
def test_a_codes_file_reads_what_the_grid_says(tmp_path_factory, name, rows, width, seed):
    floats, grid, _ = case(name, rows, width, seed)
    codes, errors = nearest(floats, grid)
    scheme, path = SCHEMES[name], tmp_path_factory.mktemp("grid") / "codes.safetensors"
    arrays = {f"w.{ending}": array for ending, array in grid.arrays().items()}
    arrays["w.codes"] = packed(np.ascontiguousarray(codes.T), scheme, grid.fillers())
    write(path, arrays, metadata({"w": (rows, width)}, {"w": scheme}, "key", 1.0))
    read = CodesFile(path).rows("w.weight", slice(None))
    np.testing.assert_allclose(read, floats + errors.T, rtol=1e-6, atol=1e-6)


def text(random, width):
    """The Hessian of inputs of very different sizes."""
    inputs = random.standard_normal((300, width)).astype(np.float32)
    inputs *= np.exp(random.standard_normal(width)).astype(np.float32)
    return damped(inputs.T @ inputs / 300, 0.01)


@pytest.mark.parametrize("name", ["palette of 16", "palette of 8"])
def test_a_refit_loses_less_and_keeps_its_books(name):
    floats, grid, random = case(name, 40, 96, 3)
    hessian = text(random, 96)
    codes, errors = nearest(floats, grid)
    before = loss(errors, hessian)
    grid.refit(errors, hessian, codes)
    assert loss(errors, hessian) < 0.99 * before
    dequantized = np.stack([grid.numbers(at, codes[at]) for at in range(96)])
    np.testing.assert_allclose(errors, dequantized - floats.T, atol=1e-5)
    palettes = grid.arrays()["palettes"]
    assert (np.diff(palettes.astype(np.float32), axis=1) >= 0).all()


@pytest.mark.parametrize("width", [96, 70])
def test_moves_of_multipliers_lose_less_and_keep_their_books(width):
    floats, grid, random = case("two-level", 40, width, 3)
    hessian = text(random, width)
    codes, errors = nearest(floats, grid)
    first = before = loss(errors, hessian)
    for inputs in grid.blocks(hessian.diagonal()):
        square = hessian[np.ix_(inputs, inputs)]
        errors[inputs] += grid.move(inputs, codes[inputs], hessian[inputs] @ errors, square)
        now = loss(errors, hessian)
        assert now <= before * 1.0001
        before = now
    assert before < 0.99 * first
    dequantized = np.stack([grid.numbers(at, codes[at]) for at in range(width)])
    np.testing.assert_allclose(errors, dequantized - floats.T, atol=1e-5)
    multipliers = grid.arrays()["multipliers"]
    assert multipliers.min() >= 1 and (multipliers.max(axis=1) == 16).all()


@given(st.sampled_from(sorted(SCHEMES)), st.integers(1, 300), st.integers(0, 99))
def test_a_sweep_has_each_input_once(name, width, seed):
    _, grid, random = case(name, 3, width, seed)
    diagonal = random.random(width)
    blocks = grid.blocks(diagonal)
    assert sorted(np.concatenate(blocks)) == list(range(width))
    for inputs in blocks:
        assert 0 < len(inputs) <= BLOCK
        assert (np.diff(diagonal[inputs]) <= 0).all()
        assert name != "two-level" or len(set(inputs // 32)) == 1


@given(st.integers(1, 40), st.integers(2, 40), st.integers(1, 9), st.integers(0, 99))
def test_palettes_move_to_the_least_squares_solution_of_each_group(rows, width, group, seed):
    random = np.random.default_rng(seed)
    scheme = Scheme(encoding="palette", bits=3, group_rows=16).model_copy(
        update={"group_rows": group}
    )
    floats = random.standard_normal((rows, width)).astype(np.float32)
    grid = grid_of(scheme, floats, np.ones(width, np.float32))
    codes, errors = nearest(floats, grid)
    inputs = random.standard_normal((2 * width, width))
    hessian = damped((inputs.T @ inputs / len(inputs)).astype(np.float32), 0.01)
    before = codes.copy()
    grid.refit(errors, hessian, codes)
    for first in range(0, rows, group):
        own = slice(first, min(first + group, rows))
        hot = (before[:, own][..., None] == np.arange(8)).astype(float)  # (K, rows, 8)
        matrix = np.einsum("krl,kj,jrm->lm", hot, hessian, hot)
        right = np.einsum("krl,kj,rj->l", hot, hessian, floats[own])
        used = hot.any(axis=(0, 1))
        best = np.linalg.lstsq(matrix[used][:, used], right[used], rcond=None)[0]
        expected = hot[..., used] @ best  # (K, rows)
        lost = expected - floats[own].T
        least = np.einsum("kr,kj,jr->", lost, hessian, lost)
        got = np.einsum("kr,kj,jr->", errors[:, own], hessian, errors[:, own])
        assert got <= least * 1.01 + 1e-4, (got, least)
