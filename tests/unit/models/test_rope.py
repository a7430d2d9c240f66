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
        ({"rope_theta": 1e4, "rope_scaling": {"rope_type": "ntk"}}, "'ntk' is not supported"),
        ({"rope_theta": 1e4, "rope_scaling": {"rope_type": "yarn"}}, "factor is missing"),
        ({"rope_theta": 1e4, "rope_scaling": {"rope_type": "dynamic"}}, "factor is missing"),
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


def test_dynamic_scaling_is_none_within_the_trained_context():
    scaled = rope_of(rope_theta=1e4, rope_scaling={"type": "dynamic", "factor": 2.0})
    np.testing.assert_array_equal(scaled, rope_of(rope_theta=1e4))


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def yarn_of(**changes):
    values = {"max_position_embeddings": 256, "rope_theta": 1e4}
    scaling = {"rope_scaling": {**YARN, **changes}}
    return read_rope(Config({**values, **scaling}, "config.json"), 16)


def test_yarn_keeps_fast_pairs_and_stretches_slow_ones():
    found, plain = np.array(yarn_of().frequencies), rope_of(16, rope_theta=1e4)
    assert found[0] == plain[0]
    np.testing.assert_allclose(found[4:], plain[4:] / 4, rtol=1e-6)
    assert ((found[1:3] < plain[1:3]) & (found[1:3] > plain[1:3] / 4)).all()


@pytest.mark.parametrize(
    ("changes", "magnitude"),
    [
        ({}, 0.1 * math.log(4) + 1),
        ({"factor": 1.0}, 1),
        ({"attention_factor": 1.5}, 1.5),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1),
        ({"mscale": 0.7, "mscale_all_dim": 0}, 0.1 * math.log(4) + 1),
    ],
)
def test_yarn_s_magnitude(changes, magnitude):
    assert yarn_of(**changes).magnitude == pytest.approx(magnitude)


def test_yarn_s_original_context_has_one_value():
    values = {"max_position_embeddings": 256, "rope_theta": 1e4, "rope_scaling": YARN}
    with pytest.raises(CheckpointError, match="original_max_position_embeddings is 64, and"):
        read_rope(Config({**values, "original_max_position_embeddings": 32}, "config.json"), 16)
