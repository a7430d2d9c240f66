"""A group of linears: the right target, bias and weight of tokens, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.ops import Projection
from slmkit.quant.linear_group import NORM, STREAM, LinearGroup
from slmkit.quant.moments import Moments, correction
from slmkit.quant.nearest_plane import factorize
from slmkit.recipe.calibration import Calibration
from slmkit.recipe.scheme import Scheme

INT8 = Scheme(encoding="per-channel", bits=8, method="gptq")
METHOD = Calibration(damping=1e-4, ridge=1e-4)


class Source:
    """Float weights by name."""

    def __init__(self, **weights):
        self.weights = weights

    def rows(self, tensor, rows):
        return self.weights[tensor.removesuffix(".weight")][rows]

    def forget(self, tensor):
        """All of it is in memory."""

    def vector(self, tensor):
        return self.weights[tensor.replace(".", "_")]


def group_of(linear, destination, method=METHOD, tokens=10_000, **weights):
    source: Any = Source(**weights)
    return LinearGroup(source, [linear], destination, method, tokens)


def quantized(group, scheme, *tokens):
    sums = group.sums()
    group.add(sums, *tokens)
    return group.quantize(sums, {"a": scheme})


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def dequantized(arrays, name, scale=1):
    codes = arrays[f"{name}.codes"].astype(np.float32) - 128
    return codes * arrays[f"{name}.scales"].astype(np.float32) * scale


def test_a_drift_of_the_inputs_is_undone_by_the_weights():
    """The quantized stream has the float stream's input through a matrix: its inverse is wanted."""
    width, weight = 12, random(20, 12)
    mixed = np.eye(width, dtype=np.float32) + 0.1 * random(width, width, seed=1)
    floats = random(2000, width, seed=2)
    group = group_of(Projection("a", 20), None, a=weight)
    arrays, (fit,) = quantized(group, INT8, floats, floats @ mixed.T)
    wanted = weight @ np.linalg.inv(mixed)
    assert fit.target == "float"
    np.testing.assert_allclose(dequantized(arrays, "a"), wanted, atol=0.05)


@pytest.mark.parametrize("destination", [STREAM, NORM])
def test_an_output_repairs_what_it_is_added_to(destination):
    """With a residual that lacks L x, the weight becomes W + L; a norm reads no residual."""
    width, rows = 24, 8
    weight, lack = random(rows, width), 0.2 * random(rows, width, seed=1)
    x, stream = random(3000, width, seed=2), random(3000, rows, seed=3)
    group = group_of(Projection("a", rows), destination, a=weight)
    residuals = (stream, stream - x @ lack.T) if destination == STREAM else None
    arrays, _ = quantized(group, INT8, x, x, residuals)
    wanted = weight + lack if destination == STREAM else weight
    np.testing.assert_allclose(dequantized(arrays, "a"), wanted, atol=0.05)


def test_a_token_with_a_huge_output_counts_no_more_than_others():
    width = 16
    weight, x = random(4, width), random(400, width, seed=1)
    x[0] *= 10_000
    group = group_of(Projection("a", 4), STREAM, a=weight)
    sums = group.sums()
    group.add(sums, x, x, (np.zeros((400, 4), np.float32),) * 2)
    outputs = x @ weight.T
    weights = 1 / np.square(outputs).mean(axis=1)
    expected = (x * weights[:, None]).T @ x / weights.sum()
    np.testing.assert_allclose(sums.means().hessian, expected, rtol=1e-3, atol=1e-4)
    assert expected.max() < 100  # of plain sums: 10^8 / 400


def test_a_bias_makes_the_mean_output_that_of_the_float_stream():
    width, rows = 12, 20
    weight, bias = random(rows, width), random(rows, seed=4)
    x = random(1000, width, seed=2) + 3
    linear = Projection("a", rows, bias=True)
    group = group_of(linear, None, Calibration(target="own"), a=weight, a_bias=bias)
    few = Scheme(encoding="per-channel", bits=4, method="gptq")
    arrays, _ = quantized(group, few, x, x + 0.5)
    low, high = arrays["a.codes"] & 15, arrays["a.codes"] >> 4
    codes = np.stack([low, high], axis=-1).reshape(rows, -1)[:, :width].astype(np.float32) - 8
    got = (x + 0.5) @ (codes * arrays["a.scales"].astype(np.float32)).T + arrays["a.bias"]
    np.testing.assert_allclose(got.mean(axis=0), (x @ weight.T + bias).mean(axis=0), atol=0.02)


@pytest.mark.parametrize("destination", [None, STREAM])
def test_what_a_short_text_cannot_tell_is_not_summed_up(destination):
    width, rows = 24, 8
    weight, x, stream = random(rows, width), random(40, width, seed=1), random(40, rows, seed=2)
    found = []
    for tokens in (40, 10_000):  # of the whole text; an expert may see few of many
        group = group_of(Projection("a", rows), destination, tokens=tokens, a=weight)
        assert (group.sums().cross is None) == (tokens == 40)
        arrays, (fit,) = quantized(group, INT8, x, x + 0.1, (stream, stream))
        assert fit.target == "own"
        found.append(arrays)
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name])


def test_an_expert_that_no_token_chose_keeps_the_nearest_codes():
    weight = random(6, 12)
    group = group_of(Projection("a", 6), None, a=weight)
    arrays, (fit,) = quantized(group, INT8, random(0, 12), random(0, 12))
    assert (fit.target, fit.tokens_per_input) == ("nearest", 0)
    step = arrays["a.scales"].astype(np.float32)
    assert (np.abs(dequantized(arrays, "a") - weight) <= step * 0.51).all()
    assert 0 < fit.loss == fit.rounded_loss < 1e-3


def test_a_correction_is_least_squares():
    x, y = random(500, 6), random(500, 3, seed=1)
    weight = random(3, 6, seed=2)
    sums = Moments.zeros(6, 3)
    sums.add(x, y)
    factor = factorize(lambda: sums.means().hessian.copy())
    expected = np.linalg.lstsq(x, y, rcond=None)[0].T
    found = correction(sums.drift(weight), factor)
    np.testing.assert_allclose(weight + found, expected, atol=1e-3)


@given(st.integers(1, 600), st.integers(1, 300), st.integers(1, 30), st.booleans())
def test_sums_over_parts_are_those_of_the_whole(width, outputs, tokens, weighted):
    x, y = random(tokens, width), random(tokens, outputs, seed=1)
    weights = np.square(random(tokens, seed=2)) if weighted else None
    sums, other = Moments.zeros(width, outputs), Moments.zeros(width, outputs)
    for part, into in ((slice(0, tokens // 2), sums), (slice(tokens // 2, None), other)):
        into.add(x[part], y[part], None if weights is None else weights[part])
    sums.merge(other)
    found = sums.means()
    counts = (np.ones(tokens, np.float32) if weights is None else weights)[:, None]
    whole, scaled = np.float32(counts.sum()), x * counts
    assert found.tokens == tokens
    np.testing.assert_allclose(found.weight, whole, rtol=1e-5)
    expected = {
        "hessian": scaled.T @ x,
        "cross": y.T @ scaled,
        "mean": scaled.sum(axis=0),
        "wanted": (y * counts).sum(axis=0),
    }
    for name, total in expected.items():
        mean = total / whole
        np.testing.assert_allclose(getattr(found, name), mean, rtol=1e-3, atol=1e-4, err_msg=name)
