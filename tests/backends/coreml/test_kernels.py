"""The few operations that are ours, each against another source."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.mil.ops.defs.iOS18 import compression
from coremltools.optimize._utils import lut_to_dense
from hypothesis import given
from hypothesis import strategies as st

from slmkit.errors import BackendError
from slmkit.interpreters.kernels import attention
from slmkit.interpreters.reference import Cache, Reference
from slmkit.ops import Attention
from slmkit_coreml.verify import kernels

shift_and_scale = compression.constexpr_blockwise_shift_scale.decompress


def var(value):
    return SimpleNamespace(val=value)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_conv_multiplies_channels():
    x, weight = random(1, 6, 1, 5), random(4, 6, 1, 1, seed=1)
    op = SimpleNamespace(x=var(x), weight=var(weight), pad_type=var("valid"))
    expected = np.einsum("oi,bixt->boxt", weight[:, :, 0, 0], x)
    np.testing.assert_allclose(kernels.conv(op), expected, rtol=1e-5, atol=1e-6)


def test_a_wider_convolution_is_refused():
    op = SimpleNamespace(x=var(random(1, 6, 1, 5)), weight=var(random(4, 6, 1, 3)))
    with pytest.raises(NotImplementedError):
        kernels.conv(op)


def test_silu_is_x_times_sigmoid():
    x = np.array([-1e4, -3, 0, 2, 1e4], np.float32)
    no_weights: Any = None
    with np.errstate(over="ignore"):
        expected = x * Reference(no_weights, [np.zeros(1, np.int64)], [Cache()]).sigmoid(x)
    np.testing.assert_allclose(kernels.silu(SimpleNamespace(x=var(x))), expected, rtol=1e-6)


@pytest.mark.parametrize("width", [5, 64, 640, 2304])
def test_a_norm_of_values_and_their_negatives_has_no_mean(width):
    """RMSNorm's form: a value of 0 stays 0, whatever gain comes after, on every processor."""
    x = np.random.default_rng(5).standard_normal((1, width, 1, 7)).astype(np.float32)
    x[:, width // 3] = 0
    x[:, width // 2] *= 1000
    both = np.concatenate([x, -x], axis=1)
    got = kernels.layer_norm(norm(both))[:, :width]
    exact = x / np.sqrt(np.square(x, dtype=np.float64).mean(axis=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(got, exact, rtol=1e-6, atol=1e-12)


def test_a_norm_takes_the_mean_away():
    x = np.array([[1.0, 2.0, 3.0, 6.0]], np.float32)
    expected = (x - 3) / np.sqrt(3.5 + 1e-6)
    np.testing.assert_allclose(kernels.layer_norm(norm(x)), expected, rtol=1e-6)


def norm(x):
    nothing = {"gamma": None, "beta": None}
    return SimpleNamespace(x=var(x), axes=var([1]), epsilon=var(np.float32(1e-6)), **nothing)


def test_fused_attention_is_the_reference_s():
    tokens, width = 7, 8
    q, k, v = (random(tokens, 3, width, seed=seed) for seed in range(3))
    mask = np.where(np.tri(tokens, dtype=bool), 0, -40000).astype(np.float32)[None, None]
    query, key, value = (var(each.transpose(1, 0, 2)[None]) for each in (q, k, v))
    op = SimpleNamespace(query=query, key=key, value=value, attn_mask=var(mask))
    got = kernels.scaled_dot_product_attention(op)[0].transpose(1, 0, 2).reshape(tokens, -1)
    expected = attention(q, k, v, Attention(width**-0.5))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_a_mask_of_booleans_is_refused():
    ones = var(np.ones((1, 1, 2, 2), np.float32))
    mask = var(np.ones((2, 2), bool))
    op = SimpleNamespace(query=ones, key=ones, value=ones, attn_mask=mask)
    with pytest.raises(NotImplementedError):
        kernels.scaled_dot_product_attention(op)


def test_a_cast_between_floats_rounds_nothing():
    x = var(np.array([0.1, 2.5], np.float32))
    cast = SimpleNamespace(x=x, dtype=var("fp16"))
    np.testing.assert_array_equal(kernels.cast(cast), x.val)
    cast.dtype = var("int32")
    np.testing.assert_array_equal(kernels.cast(cast), [0, 2])
    cast.dtype = var("int8")
    with pytest.raises(NotImplementedError):
        kernels.cast(cast)


def palette_op(indices, palettes, decompress):
    return SimpleNamespace(
        op_type="constexpr_lut_to_dense",
        name="w",
        indices=var(indices),
        lut=var(palettes),
        decompress=decompress,
    )


@given(
    st.integers(1, 3), st.sampled_from([1, 8, 300]), st.integers(1, 9), st.sampled_from([3, 4, 6])
)
def test_palettes_are_decompressed_as_coremltools_does(groups, rows, width, bits):
    source = np.random.default_rng(groups + rows + width)
    indices = source.integers(0, 1 << bits, (groups * rows, width, 1, 1)).astype(np.uint8)
    palettes = source.standard_normal((groups, 1, 1, 1, 1 << bits, 1)).astype(np.float32)
    got = kernels.decompress(palette_op(indices, palettes, lut_to_dense))
    np.testing.assert_array_equal(got, lut_to_dense(indices, palettes))


@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 15), st.integers(1, 15))
def test_rows_of_palettes_are_those_of_the_whole(groups, rows, first, count):
    source = np.random.default_rng(rows)
    indices = source.integers(0, 16, (groups * rows, 3, 1, 1)).astype(np.uint8)
    palettes = source.standard_normal((groups, 1, 1, 1, 16, 1)).astype(np.float32)
    op, part = palette_op(indices, palettes, lut_to_dense), slice(first, first + count)
    np.testing.assert_array_equal(kernels.decompress(op, part), kernels.decompress(op)[part])


def test_numbers_of_palettes_are_known_to_be_float16_s():
    indices, palettes = np.zeros((4, 2), np.uint8), random(2, 1, 16, 1)
    assert not kernels.in_float16(palette_op(indices, palettes, lut_to_dense))
    exact = palettes.astype(np.float16).astype(np.float32)
    assert kernels.in_float16(palette_op(indices, exact, lut_to_dense))
    assert not kernels.in_float16(SimpleNamespace(op_type="constexpr_blockwise_shift_scale"))


@given(st.integers(1, 9), st.sampled_from([1, 2, 4]), st.booleans(), st.integers(0, 9))
def test_rows_of_codes_are_those_of_the_whole(rows, groups, shared, first):
    source = np.random.default_rng(rows)
    op = SimpleNamespace(
        op_type="constexpr_blockwise_shift_scale",
        data=var(source.integers(-8, 8, (rows, 8, 1, 1)).astype(np.int8)),
        scale=var(source.random((1 if shared else rows, groups, 1, 1)).astype(np.float32)),
        offset=None,
        decompress=shift_and_scale,
    )
    op.materialized_val_inference = lambda: shift_and_scale(op.data.val, op.scale.val, None)
    whole = op.data.val * np.repeat(op.scale.val, 8 // groups, 1)
    part = slice(first % rows, first % rows + 3)
    np.testing.assert_array_equal(kernels.decompress(op, part), whole[part])
    np.testing.assert_array_equal(kernels.decompress(op), whole)


@pytest.mark.parametrize("rows", [1, kernels.ROWS, kernels.ROWS + 1, 2 * kernels.ROWS + 5])
def test_a_product_of_parts_is_that_of_the_whole_weight(rows):
    codes, scale = random(rows, 6) * 10 // 1, np.abs(random(rows, 1))
    op = SimpleNamespace(
        op_type="constexpr_blockwise_shift_scale",
        data=var(codes.astype(np.int8).reshape(rows, 6, 1, 1)),
        scale=var(scale.reshape(rows, 1, 1, 1)),
        offset=None,
        decompress=shift_and_scale,
    )
    halves = kernels.Parts((rows, 6, 1, 1), lambda part: kernels.decompress(op, part) / 2)
    x = random(1, 6, 1, 4)
    conv = SimpleNamespace(x=var(x), weight=var(halves), pad_type=var("valid"))
    got = kernels.conv(conv)
    conv.weight = var(halves[:])
    np.testing.assert_array_equal(got, kernels.conv(conv))
    expected = (codes * scale / 2) @ x[0, :, 0]
    np.testing.assert_allclose(got[0, :, 0], expected, rtol=1e-5, atol=1e-4)


def test_a_difference_from_coremltools_is_an_error():
    indices, palettes = np.zeros((4, 2), np.uint8), np.ones((1, 1, 16, 1), np.float32)

    def other(indices, lut, axis):
        return lut_to_dense(indices, lut) * 2

    with pytest.raises(BackendError, match="decompress w differently"):
        kernels.decompress(palette_op(indices, palettes, other))
