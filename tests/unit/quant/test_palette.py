"""Palettes: ascending, exact in float16, near the best that a scalar quantizer can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slmkit.quant.palette import SMALLEST, cluster
from slmkit.quant.quantize import quantize_rows
from slmkit.recipe.scheme import Scheme

GROUPS = st.tuples(st.integers(1, 3), st.integers(1, 60)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-6e4, 6e4, width=32))
)
BITS = st.sampled_from([4, 6])


def meant(palettes, codes):
    return np.take_along_axis(palettes, codes.astype(int), axis=1)


def error(groups, palettes, codes, weights=1.0):
    return float((weights * np.square(meant(palettes, codes) - groups)).sum())


def best_error(numbers, levels):
    """The least squared error of any palette, by dynamic programming over sorted numbers."""
    ordered = np.sort(numbers.astype(np.float64))
    count = len(ordered)
    first, second = (np.concatenate([[0], np.cumsum(ordered**power)]) for power in (1, 2))

    def cost(start, end):
        return second[end] - second[start] - (first[end] - first[start]) ** 2 / (end - start)

    table = np.array([0] + [cost(0, end) for end in range(1, count + 1)])
    for level in range(1, levels):
        found = [
            [table[start] + cost(start, end) for start in range(level, end)]
            for end in range(count + 1)
        ]
        table = np.array([min(each, default=table[end]) for end, each in enumerate(found)])
    return table[count]


@given(GROUPS, BITS)
def test_palettes_ascend_and_are_exact_in_float16(groups, bits):
    palettes, codes = cluster(groups, bits)
    assert palettes.shape == (len(groups), 1 << bits)
    assert codes.shape == groups.shape
    assert codes.max() < 1 << bits
    assert (np.diff(palettes, axis=1) >= 0).all()
    np.testing.assert_array_equal(palettes.astype(np.float16).astype(np.float32), palettes)
    assert ((palettes == 0) | (np.abs(palettes) >= SMALLEST)).all()


@given(GROUPS, BITS)
def test_every_number_gets_its_nearest_entry(groups, bits):
    palettes, codes = cluster(groups, bits)
    nearest = np.abs(groups[:, :, None] - palettes[:, None]).min(axis=2)
    chosen = np.abs(groups - meant(palettes, codes))
    np.testing.assert_allclose(chosen, nearest, rtol=1e-4, atol=1e-6)


@given(GROUPS)
def test_few_different_numbers_cost_only_their_rounding(groups):
    few = groups[:, :16]
    found = meant(*cluster(few, 6))
    np.testing.assert_allclose(found, few, rtol=2**-9, atol=SMALLEST)


@pytest.mark.parametrize("seed", range(4))
def test_the_error_is_near_the_best_there_is(seed):
    random = np.random.default_rng(seed)
    numbers = random.standard_normal(300).astype(np.float32)
    numbers[:2] *= 1 if seed % 2 else 6  # outliers
    found = error(numbers[None], *cluster(numbers[None], 4))
    assert found <= 1.15 * best_error(numbers, 16)


def test_groups_do_not_depend_on_their_neighbours():
    groups = np.random.default_rng(0).standard_normal((5, 200)).astype(np.float32)
    groups[3] *= 1000
    palettes, codes = cluster(groups, 4)
    for at, row in enumerate(groups):
        alone = cluster(row[None], 4)
        np.testing.assert_array_equal(alone[0][0], palettes[at])
        np.testing.assert_array_equal(alone[1][0], codes[at])


def test_heavier_numbers_are_met_better():
    random = np.random.default_rng(2)
    groups = random.standard_normal((3, 400)).astype(np.float32)
    weights = np.where(np.arange(400) < 40, 100, 1).astype(np.float32)
    plain, heavy = cluster(groups, 4), cluster(groups, 4, weights)
    assert error(groups, *heavy, weights) < 0.8 * error(groups, *plain, weights)
    even = cluster(groups, 4, np.full(400, 3, np.float32))
    np.testing.assert_array_equal(even[0], plain[0])


def test_a_palette_beats_an_integer_of_the_same_bits():
    floats = np.random.default_rng(3).standard_normal((32, 128)).astype(np.float32)
    noise = {
        encoding: quantize_rows("w", floats, Scheme(encoding=encoding, bits=4, **more))[1].noise
        for encoding, more in (("palette", {"group_rows": 16}), ("per-channel", {}))
    }
    assert noise["palette"] < 0.9 * noise["per-channel"]
