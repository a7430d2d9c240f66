"""Scales: exact in every backend to come, and never worse than plain rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slmkit.quant.codes import Codes, unpack, zero_point
from slmkit.quant.quantize import quantize_rows
from slmkit.quant.round_to_nearest import MULTIPLIERS, round_significand
from slmkit.recipe.scheme import Scheme

INT4 = Scheme(encoding="group-wise", bits=4, group_size=32, scales="two-level")
FREE = [
    Scheme(encoding="group-wise", bits=bits, group_size=32, symmetric=symmetric)
    for bits in (4, 8)
    for symmetric in (True, False)
] + [Scheme(encoding="per-channel", bits=8), Scheme(encoding="per-channel", bits=4)]
WEIGHTS = st.tuples(st.integers(1, 4), st.integers(1, 100)).flatmap(
    lambda shape: arrays(
        np.float32, shape, elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
    )
)


def coded(floats, scheme):
    """The arrays of the codes file, and the codes they mean."""
    arrays_, energy = quantize_rows("w", floats, scheme)
    if scheme.scales == "two-level":
        channel = arrays_["w.channel_scales"].astype(np.float32)
        scales = channel[:, None] * arrays_["w.multipliers"]
    else:
        scales = arrays_["w.scales"].astype(np.float32)
    zeros = arrays_.get("w.zero_points", np.full(scales.shape, zero_point(scheme), np.uint8))
    codes = unpack(arrays_["w.codes"], scheme.bits)
    return arrays_, Codes(scheme, floats.shape[1], codes, scales, zeros), energy


def exact_in_bfloat16(values):
    """True where the lower half of the float32 is empty: bfloat16 is the upper half."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) & 0xFFFF) == 0


def significant_bits(value):
    mantissa = int(np.float32(value).view(np.uint32)) & 0x7FFFFF | 0x800000
    while mantissa % 2 == 0:
        mantissa //= 2
    return mantissa.bit_length()


@given(WEIGHTS)
def test_two_level_scales_are_a_channel_scale_times_an_integer(floats):
    stored, codes, _ = coded(floats, INT4)
    multipliers, channel = stored["w.multipliers"], stored["w.channel_scales"]
    assert multipliers.min() >= 1
    assert (multipliers.max(axis=1) == MULTIPLIERS).all()  # QNN's form expects a 16 per channel
    assert all(significant_bits(value) <= 4 for value in channel)
    assert codes.scales.shape == multipliers.shape


@given(WEIGHTS, st.sampled_from([INT4, *FREE]))
def test_every_scale_is_exact_in_bfloat16_and_a_normal_float16(floats, scheme):
    scales = coded(floats, scheme)[1].scales
    assert exact_in_bfloat16(scales).all()
    np.testing.assert_array_equal(scales.astype(np.float16).astype(np.float32), scales)
    assert (scales >= 2.0**-14).all()


@given(WEIGHTS)
def test_qnn_s_two_level_form_means_the_same_numbers(floats):
    stored, codes, _ = coded(floats, INT4)
    # DequantizeLinear(uint8 k, float32 channel scale), then DequantizeLinear(int4, that).
    inner = (
        stored["w.multipliers"].astype(np.float32)
        * stored["w.channel_scales"].astype(np.float32)[:, None]
    )
    outer = codes.signed.astype(np.float32) * np.repeat(inner, 32, axis=1)
    np.testing.assert_array_equal(outer[:, : floats.shape[1]], codes.dequantize())


@given(WEIGHTS, st.sampled_from(FREE))
def test_the_search_is_never_worse_than_plain_rounding(floats, scheme):
    plain = scheme.model_copy(update={"method": "absmax"})
    searched, rounded = coded(floats, scheme)[2], coded(floats, plain)[2]
    # Group-wise sums in float32 choose, a float64 sum judges: a hair of room between them.
    assert searched.noise <= rounded.noise * (1 + 1e-4) + 1e-12


@pytest.mark.parametrize("scheme", FREE[:2])
def test_the_search_gains_on_real_shapes(scheme):
    floats = np.random.default_rng(0).standard_normal((64, 256), dtype=np.float32) * 0.02
    plain = scheme.model_copy(update={"method": "absmax"})
    assert coded(floats, scheme)[2].snr_db > coded(floats, plain)[2].snr_db + 0.3


def test_two_levels_cost_little_against_free_scales():
    floats = np.random.default_rng(0).standard_normal((64, 256), dtype=np.float32) * 0.02
    free = coded(floats, FREE[0])[2].snr_db
    assert free - coded(floats, INT4)[2].snr_db < 0.3


@given(WEIGHTS, st.sampled_from([INT4, *FREE]))
def test_codes_and_scales_are_finite_whatever_comes(floats, scheme):
    _, codes, energy = coded(floats, scheme)
    assert np.isfinite(codes.scales).all()
    assert np.isfinite(codes.dequantize()).all()
    assert np.isfinite(energy.noise)


@given(st.floats(2.0**-13, 1e4, width=32), st.integers(1, 8))
def test_rounding_keeps_so_many_bits_and_stays_near(value, bits):
    rounded = round_significand(np.array([value], np.float32), bits)[0]
    assert significant_bits(rounded) <= bits
    assert abs(rounded - value) <= value * 2.0**-bits


def test_the_whole_range_of_codes_is_used():
    floats = np.array([[-8.0, 7.0, *([0.5] * 30)]], np.float32)
    codes = coded(floats, FREE[0])[1]
    assert codes.signed[0, 0] == -8
    assert codes.scales[0, 0] < 8 / 7  # max / 7 would clip nothing of -7 .. 7 only
