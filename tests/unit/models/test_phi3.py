"""The facts of Phi-3 from config.json: two ropes by context, a part of each head that rotates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from tiny_models import LONGROPE, tiny_config


def spec_of(**changes):
    return read_spec(Config(tiny_config("phi3-long", **changes), "config.json"))


def test_the_context_decides_which_rope_holds_for_all_positions():
    spec = spec_of()
    assert spec.at_context(64) == spec
    assert spec.rope_context == 64
    longer = spec.at_context(65)
    assert longer.rope == spec.long_rope.rope
    assert longer.rope_context == 256
    ratio = np.array(spec.rope.frequencies) / np.array(longer.rope.frequencies)
    factors = np.array(LONGROPE["long_factor"]) / np.array(LONGROPE["short_factor"])
    np.testing.assert_allclose(ratio, factors, rtol=1e-6)


def test_cos_and_sin_grow_with_the_stretched_context():
    assert math.isclose(spec_of().rope.magnitude, math.sqrt(1 + math.log(4) / math.log(64)))
    factor = {**LONGROPE, "attention_factor": 1.25}
    assert spec_of(rope_scaling=factor).rope.magnitude == 1.25


def test_phi_3_5_has_48_pairs_and_no_window_shorter_than_its_context():
    factors = [1 + at / 48 for at in range(48)]
    spec = spec_of(
        hidden_size=3072,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=131072,
        original_max_position_embeddings=4096,
        sliding_window=262144,
        partial_rotary_factor=1.0,
        rope_scaling={"type": "longrope", "short_factor": factors, "long_factor": factors},
    )
    assert spec.rope.width == spec.head_width == 96
    assert spec.windows == (None,) * 32
    assert spec.names.qkv == ("qkv_proj",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_scaling": {**LONGROPE, "short_factor": [1.0]}}, "short_factor has 1 numbers"),
        ({"rope_scaling": {**LONGROPE, "long_factor": [1.0, -1.0]}}, "a list of positive numbers"),
        ({"rope_scaling": {"type": "longrope"}}, "long_factor is missing"),
        ({"original_max_position_embeddings": None}, "original_max_position_embeddings is missing"),
        ({"partial_rotary_factor": 1.5}, "24 of 16 channels"),
        ({"partial_rotary_factor": 0.2}, "3 of 16 channels"),
    ],
)
def test_a_wrong_longrope_is_refused_by_its_key(changes, said):
    with pytest.raises(CheckpointError, match=said):
        spec_of(**changes)
