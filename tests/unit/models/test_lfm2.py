"""The facts of LFM2 from config.json, of its first files and of those since transformers 5."""

from __future__ import annotations

import pytest

from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import summarize
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from tiny_models import tiny_config

# As LFM2's first files have them; the sizes are LFM2-350M's.
PUBLISHED = {
    "model_type": "lfm2",
    "block_auto_adjust_ff_dim": True,
    "block_ff_dim": 6656,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 256,
    "conv_L_cache": 3,
    "conv_bias": False,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    "hidden_size": 1024,
    "max_position_embeddings": 128000,
    "norm_eps": 1e-5,
    "num_attention_heads": 16,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rope_theta": 1000000.0,
    "vocab_size": 65536,
}
LARGER = {"block_ff_dim": 10240, "hidden_size": 1536, "num_attention_heads": 24}
LARGEST = {"block_ff_dim": 12288, "hidden_size": 2048, "num_attention_heads": 32}
DEEPEST = {
    **LARGEST,
    "block_auto_adjust_ff_dim": False,
    "block_ff_dim": 10752,
    "full_attn_idxs": [2, 5, 9, 13, 17, 21, 24, 27],
    "num_hidden_layers": 30,
}


def spec_of(**changes):
    return read_spec(Config({**PUBLISHED, **changes}, "config.json"))


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({}, 354_483_968),
        (LARGER, 742_489_344),
        (LARGEST, 1_170_340_608),
        (DEEPEST, 2_569_272_320),
    ],
    ids=["350M", "700M", "1.2B", "2.6B"],
)
def test_published_models_have_their_parameters(changes, parameters):
    assert summarize(spec_of(**changes)).parameters == parameters


def test_layers_without_attention_keep_what_their_convolution_looks_back_at():
    model = summarize(spec_of())
    assert model.attention_layers == (2, 5, 8, 10, 12, 14)
    assert {state.layer for state in model.states} == set(range(16)) - set(model.attention_layers)
    assert {(state.kind, state.shape) for state in model.states} == {("conv", (1024, 2))}


def test_old_and_new_files_say_the_same():
    old = tiny_config("lfm2", full_attn_idxs=[1], tie_embedding=True, block_ff_dim=150)
    for key in ("layer_types", "tie_word_embeddings", "intermediate_size"):
        del old[key]
    new = tiny_config("lfm2", rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    del new["rope_theta"]
    assert read_spec(Config(old, "config.json")) == read_spec(Config(new, "config.json"))


@pytest.mark.parametrize(
    ("changes", "width"),
    [
        ({}, 4608),  # 4437, in whole multiples of 256
        ({"block_multiple_of": 100}, 4500),
        ({"block_ffn_dim_multiplier": 0.5}, 2304),
        ({"block_ffn_dim_multiplier": None}, 4437),  # and none of the rounding
        ({"block_auto_adjust_ff_dim": False}, 6656),
    ],
)
def test_a_feed_forward_adjusts_itself_as_transformers_does(changes, width):
    assert spec_of(**changes).feed_forward == width


def test_the_head_is_tied_unless_the_file_says_otherwise():
    assert spec_of().tied
    assert not spec_of(tie_embedding=False).tied
    assert not spec_of(tie_embedding=False, tie_word_embeddings=True).tied  # the older word holds
    assert not spec_of(tie_word_embeddings=False).tied


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer_types": ["conv"] * 15}, "layer_types is not a list of conv or full_attention"),
        ({"layer_types": ["conv", "mamba"] * 8}, "layer_types is not a list"),
        ({"full_attn_idxs": None}, "full_attn_idxs is missing"),
        ({"full_attn_idxs": [2, "5"]}, "full_attn_idxs is .*expected a list of integers"),
        ({"conv_L_cache": 1}, "conv_L_cache is 1, expected an integer from 2"),
        ({"conv_bias": None}, "conv_bias is missing"),
        ({"norm_eps": None}, "norm_eps is missing"),
        ({"rope_theta": None}, "rope_theta is missing"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(changes, said):
    with pytest.raises(CheckpointError, match=said):
        spec_of(**changes)
