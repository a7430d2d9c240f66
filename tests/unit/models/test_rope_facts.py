"""The rope's facts in several places of config.json: taken as transformers takes them, or refused.

The values were read from transformers 4.57.6 and 5.24.0 (``rotary_emb.inv_freq``).
"""

from __future__ import annotations

import numpy as np
import pytest

from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from slmkit.models.rope import read_rope
from tiny_models import tiny_config

LINEAR = {"rope_type": "linear", "factor": 4.0}
PLAIN = {"rope_type": "default", "rope_theta": 5e4}


def rope_of(**values):
    return np.array(read_rope(Config(values, "config.json"), 16).frequencies)


@pytest.mark.parametrize(
    ("values", "theta", "factor"),
    [
        ({"rope_theta": 5e4, "rope_scaling": {}}, 5e4, 1),
        ({"rope_theta": 5e4, "rope_scaling": None, "rope_parameters": None}, 5e4, 1),
        # A value outside serves a section that has none.
        ({"rope_theta": 5e4, "rope_parameters": LINEAR}, 5e4, 4),
        ({"rope_theta": 5e4, "rope_scaling": {**LINEAR, "rope_theta": 5e4}}, 5e4, 4),
        ({"rope_parameters": {**LINEAR, "rope_theta": 5e4}}, 5e4, 4),
        # The same value twice is one value.
        ({"rope_theta": 50000, "rope_parameters": {**LINEAR, "rope_theta": 5e4}}, 5e4, 4),
        # rope_scaling wins over rope_parameters, in both versions.
        ({"rope_theta": 5e4, "rope_parameters": PLAIN, "rope_scaling": LINEAR}, 5e4, 4),
        (
            {"rope_theta": 5e4, "rope_parameters": {"rope_theta": 1e4}, "rope_scaling": LINEAR},
            5e4,
            4,
        ),
    ],
)
def test_where_both_versions_agree_we_do_as_they_do(values, theta, factor):
    expected = theta ** (-np.arange(0, 16, 2) / 16) / factor
    np.testing.assert_allclose(rope_of(**values), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"rope_theta": 1e4, "rope_scaling": {**LINEAR, "rope_theta": 5e4}},
            r"rope_scaling: rope_theta is 50000.0, and config.json: rope_theta is 10000.0",
        ),
        (
            {"rope_scaling": {**LINEAR, "rope_theta": 5e4}},
            "rope_scaling: rope_theta is 50000.0, and none stands outside",
        ),
        (
            {"rope_theta": 1e4, "rope_parameters": PLAIN},
            r"rope_parameters: rope_theta is 50000.0, and config.json: rope_theta is 10000.0",
        ),
        (
            {"rope_theta": 1e4, "rope_scaling": {**LINEAR, "type": "default"}},
            "type is 'default', and rope_type is 'linear'",
        ),
        (
            {"rope_parameters": PLAIN, "rope_scaling": LINEAR},
            "rope_scaling replaces rope_parameters, .* the rope_theta of 50000.0",
        ),
        (
            {
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
                "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75},
            },
            "partial_rotary_factor is 0.75, and config.json: partial_rotary_factor is 0.5",
        ),
    ],
)
def test_where_they_disagree_both_values_are_told(values, said):
    with pytest.raises(CheckpointError, match=said) as caught:
        rope_of(**values)
    assert caught.value.hint


def spec_of(architecture, **changes):
    config = {**tiny_config(architecture), **changes}
    config = {key: value for key, value in config.items() if value is not ...}
    return read_spec(Config(config, "config.json"))


def test_the_original_context_has_one_value():
    scaling = tiny_config("phi3-long")["rope_scaling"]
    same = {**scaling, "original_max_position_embeddings": 64}
    assert spec_of("phi3-long", rope_scaling=same) == spec_of("phi3-long")
    other = {**scaling, "original_max_position_embeddings": 32}
    with pytest.raises(CheckpointError, match="original_max_position_embeddings is 32"):
        spec_of("phi3-long", rope_scaling=other)


def test_gemma_3_s_two_forms_agree_or_are_refused():
    flat = spec_of("gemma3")
    nested = {
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
    }
    assert spec_of("gemma3", rope_parameters=nested) == flat
    alone = {"rope_theta": ..., "rope_local_base_freq": ..., "rope_scaling": ...}
    assert spec_of("gemma3", rope_parameters=nested, **alone) == flat
    nested["full_attention"] |= {"factor": 8.0}  # rope_scaling wins, in both versions
    assert spec_of("gemma3", rope_parameters=nested) == flat
    nested["sliding_attention"] |= {"rope_theta": 2e3}
    with pytest.raises(CheckpointError, match=r"is 2000.0, and .*rope_local_base_freq is 1000.0"):
        spec_of("gemma3", rope_parameters=nested)


def test_missing_caps_are_gemma_2_s_own_and_null_is_none():
    spec = spec_of("gemma2", attn_logit_softcapping=..., final_logit_softcapping=...)
    assert (spec.attention_cap, spec.logits_cap) == (50, 30)
    spec = spec_of("gemma2", attn_logit_softcapping=None, final_logit_softcapping=None)
    assert (spec.attention_cap, spec.logits_cap) == (None, None)
    spec = spec_of("gemma3")
    assert (spec.attention_cap, spec.logits_cap) == (None, None)


def test_a_missing_window_is_mistral_s_own_and_null_is_none():
    assert spec_of("mistral", sliding_window=...).windows == (4096, 4096)
    assert spec_of("mistral", sliding_window=None).windows == (None, None)
    kinds = ["full_attention", "sliding_attention"]
    assert spec_of("mistral-window", layer_types=kinds).windows == (None, 16)
