"""Rope frequencies: plain, scaled, and refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.models.rope import read_rope

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def rope_of(width=64, **values):
    return np.array(read_rope(Config(values, "config.json"), width).frequencies)


def test_plain_frequencies_are_powers_of_theta():
    expected = [10000.0 ** (-2 * i / 64) for i in range(32)]
    np.testing.assert_allclose(rope_of(rope_theta=10000.0), expected, rtol=1e-6)


def test_both_spellings_of_config_json_mean_the_same():
    old = rope_of(rope_theta=500000.0, rope_scaling=LLAMA3)
    new = rope_of(rope_parameters={"rope_theta": 500000.0, **LLAMA3})
    np.testing.assert_array_equal(old, new)


def test_llama3_keeps_short_waves_and_stretches_long_ones():
    plain, scaled = rope_of(rope_theta=500000.0), rope_of(rope_theta=500000.0, rope_scaling=LLAMA3)
    wavelength = 2 * math.pi / plain
    np.testing.assert_array_equal(scaled[wavelength < 8192 / 4], plain[wavelength < 8192 / 4])
    np.testing.assert_allclose(scaled[wavelength > 8192], plain[wavelength > 8192] / 32, rtol=1e-6)
    between = (wavelength > 8192 / 4) & (wavelength < 8192)
    assert ((scaled < plain) & (scaled > plain / 32))[between].all()
    assert between.any()


def test_linear_scaling_divides():
    scaled = rope_of(rope_theta=1e4, rope_scaling={"type": "linear", "factor": 4.0})
    np.testing.assert_allclose(scaled, rope_of(rope_theta=1e4) / 4)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "rope_theta is missing"),
        ({"rope_theta": -1}, "rope_theta is -1"),
        ({"rope_theta": 1e4, "rope_scaling": {"rope_type": "yarn"}}, "'yarn' is not supported"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_theta": 1e4, "rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "not above"),
        ({"rope_theta": 1e4, "rope_scaling": "llama3"}, "expected an object"),
    ],
)
def test_a_wrong_rope_is_refused_by_its_key(values, said):
    with pytest.raises(CheckpointError, match=said):
        rope_of(**values)


def test_an_odd_head_width_is_refused():
    with pytest.raises(CheckpointError, match="head width 63 is odd"):
        rope_of(width=63, rope_theta=1e4)


def test_the_table_rounds_angles_to_float32():
    rope = read_rope(Config({"rope_theta": 1e4}, "config.json"), 64)
    cos, sin = rope.table([0, 100_000])
    angle = np.float32(100_000) * np.float32(rope.frequencies[3])
    assert (cos[0] == 1).all() and (sin[0] == 0).all()
    assert cos[1, 3] == np.cos(angle, dtype=np.float32)
