"""The facts of the Gemma family from config.json, and norms that are stored less one."""

from __future__ import annotations

import numpy as np
import pytest

import phone_shapes
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from tiny_models import tiny_config


def spec_of(architecture, **changes):
    return read_spec(Config(tiny_config(architecture, **changes), "config.json"))


def test_gelu_in_gemma_s_first_files_means_its_tanh_form():
    config = tiny_config("gemma", hidden_act="gelu")
    del config["hidden_activation"]
    assert read_spec(Config(config, "config.json")).activation == "gelu_tanh"


def test_gemma_2_is_local_in_every_second_layer_beginning_with_the_first():
    spec = phone_shapes.spec_of("gemma-2-2b")
    assert spec.windows[:4] == (4096, None, 4096, None)
    assert (spec.attention_cap, spec.logits_cap) == (50.0, 30.0)
    assert spec.attention(0).scale == 256**-0.5


def test_gemma_3_sees_everything_in_every_sixth_layer_and_rotates_local_ones_otherwise():
    spec = phone_shapes.spec_of("gemma-3-1b")
    assert [at for at, window in enumerate(spec.windows) if window is None] == [5, 11, 17, 23]
    assert len(spec.ropes) == 2
    assert spec.rope_at(0).frequencies[1] > spec.rope_at(5).frequencies[1]  # theta 1e4 and 1e6


def test_both_spellings_of_gemma_3_s_ropes_mean_the_same():
    config = tiny_config("gemma3")
    parameters = {
        "full_attention": {"rope_theta": 1e5, "rope_type": "linear", "factor": 2.0},
        "sliding_attention": {"rope_theta": 1e3, "rope_type": "default"},
    }
    for key in ("rope_theta", "rope_scaling", "rope_local_base_freq"):
        del config[key]
    new = read_spec(Config({**config, "rope_parameters": parameters}, "config.json"))
    assert new.ropes == spec_of("gemma3").ropes


def test_a_model_that_looks_both_ways_is_refused():
    with pytest.raises(CheckpointError, match="use_bidirectional_attention"):
        spec_of("gemma3", use_bidirectional_attention=True)


def test_a_missing_half_of_the_ropes_is_named():
    config = {**tiny_config("gemma3"), "rope_parameters": {"full_attention": {"rope_theta": 1e4}}}
    with pytest.raises(CheckpointError, match="sliding_attention is missing"):
        read_spec(Config(config, "config.json"))


def test_norms_are_read_one_larger_than_they_are_stored(tiny):
    shards = open_checkpoint(tiny("gemma")).shards
    name = "model.layers.0.input_layernorm.weight"
    np.testing.assert_array_equal(shards.vector(name), shards.where[name].floats(name) + 1)
    assert abs(shards.vector(name).mean() - 1) < 0.2
