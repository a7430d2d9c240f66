"""The facts of Granite 4.0 from config.json: its hybrid models, and those that only attend."""

from __future__ import annotations

import pytest

from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import record, summarize
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from slmkit.ops import Routing
from tiny_models import tiny_config

ATTENDING = (5, 15, 25, 35)
# Granite-4.0-H-Micro's.
PUBLISHED = {
    "model_type": "granitemoehybrid",
    "attention_bias": False,
    "attention_multiplier": 0.015625,
    "embedding_multiplier": 12,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "layer_types": ["attention" if layer in ATTENDING else "mamba" for layer in range(40)],
    "logits_scaling": 8,
    "mamba_conv_bias": True,
    "mamba_d_conv": 4,
    "mamba_d_head": 64,
    "mamba_d_state": 128,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "mamba_n_heads": 64,
    "mamba_proj_bias": False,
    "max_position_embeddings": 131072,
    "normalization_function": "rmsnorm",
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "num_local_experts": 0,
    "position_embedding_type": "nope",
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000,
    "shared_intermediate_size": 8192,
    "tie_word_embeddings": True,
    "vocab_size": 100352,
}
TINY = {
    "hidden_size": 1536,
    "intermediate_size": 512,
    "mamba_n_heads": 48,
    "num_attention_heads": 12,
    "num_experts_per_tok": 6,
    "num_key_value_heads": 4,
    "num_local_experts": 64,
    "shared_intermediate_size": 1024,
}
ATTENTION_ALONE = {
    "hidden_size": 2560,
    "layer_types": ["attention"] * 40,
    "num_attention_heads": 40,
    "position_embedding_type": "rope",
}


def spec_of(**changes):
    return read_spec(Config({**PUBLISHED, **changes}, "config.json"))


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [({}, 3_191_396_096), (TINY, 6_939_037_248), (ATTENTION_ALONE, 3_402_836_480)],
    ids=["h-micro", "h-tiny", "micro"],
)
def test_published_models_have_their_parameters(changes, parameters):
    assert summarize(spec_of(**changes)).parameters == parameters


def test_some_layers_attend_and_the_others_scan():
    model = summarize(spec_of())
    assert model.attention_layers == ATTENDING
    kept = {(state.kind, state.shape) for state in model.states}
    assert kept == {("conv", (4096 + 2 * 128, 3)), ("scan", (64, 128, 64))}
    assert {state.layer for state in model.states} == set(range(40)) - set(ATTENDING)


def test_a_model_that_only_attends_has_no_state_space():
    spec = spec_of(**ATTENTION_ALONE)
    assert spec.state is None
    assert summarize(spec).states == ()


def test_positions_are_rotated_where_the_file_asks_for_it():
    assert spec_of().ropes == spec_of(position_embedding_type=None).ropes == ()
    assert "rope" not in record(spec_of()).inventory
    (rope,) = spec_of(position_embedding_type="rope").ropes
    assert rope.width == 64


def test_experts_are_added_to_the_feed_forward_of_every_token():
    moe = spec_of(**TINY).moe
    assert moe.routing == Routing(6, True)
    assert (moe.feed_forward, moe.shared, moe.shared_weighed) == (512, 1024, False)
    assert spec_of().moe is None


def test_old_and_new_files_say_the_same():
    new = {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "time_step_limit": [0.0, {"__float__": "Infinity"}],
    }
    older = tiny_config("granite-hybrid", mamba_d_head="auto", time_step_limit=[0.0, float("inf")])
    older["layers_block_type"] = older.pop("layer_types")
    for config in (older, tiny_config("granite-hybrid", **new)):
        expected = read_spec(Config(tiny_config("granite-hybrid"), "config.json"))
        assert read_spec(Config(config, "config.json")) == expected


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mamba_n_groups": 8}, "mamba_n_groups is 8; only 1 is supported"),
        ({"time_step_limit": [0.0, 0.1]}, "time_step_limit"),
        ({"mamba_d_head": 32}, "64 heads of 32 channels .* are not the 4096"),
        ({"mamba_n_heads": 60, "mamba_d_head": "auto"}, "60 heads of 68 channels"),
        ({"mamba_d_conv": 1}, "mamba_d_conv"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"normalization_function": "layernorm"}, "normalization_function is 'layernorm'"),
        ({"position_embedding_type": "alibi"}, "position_embedding_type is 'alibi'"),
        ({"layer_types": ["mamba"] * 39}, "layer_types is not a list"),
        ({"layer_types": None}, "layers_block_type is missing"),
        ({"num_local_experts": None}, "num_local_experts is missing"),
        ({**TINY, "num_experts_per_tok": 65}, "num_experts_per_tok 65 is more than"),
        ({"attention_multiplier": None}, "attention_multiplier is missing"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(changes, said):
    with pytest.raises(CheckpointError, match=said):
        spec_of(**changes)
