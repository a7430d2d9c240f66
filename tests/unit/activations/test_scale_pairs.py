"""Pairs of weights between which a factor per channel can move, by name."""

from __future__ import annotations

import pytest

from slmkit.activations.scale_pairs import scale_pairs
from slmkit.interpreters.recorder import summarize
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from tiny_models import tiny_config

LAYER = "model.layers.0"
ATTENTION = {
    "input_layernorm": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "self_attn.v_proj": ["self_attn.o_proj"],
}
MLP = {
    "post_attention_layernorm": ["mlp.gate_proj", "mlp.up_proj"],
    "mlp.up_proj": ["mlp.down_proj"],
}
EXPERTS = [f"mlp.experts.{number}.{part}_proj" for number in range(4) for part in ("gate", "up")]
SHARED = [f"mlp.shared_expert.{part}_proj" for part in ("gate", "up")]
EXPECTED = {
    "llama": {**ATTENTION, **MLP},
    "llama-biases": {**ATTENTION, **MLP},
    "gemma3": {
        **ATTENTION,
        "pre_feedforward_layernorm": ["mlp.gate_proj", "mlp.up_proj"],
        "mlp.up_proj": ["mlp.down_proj"],
    },
    "phi3": {
        "input_layernorm": ["self_attn.qkv_proj"],
        "self_attn.qkv_proj": ["self_attn.o_proj"],
        "post_attention_layernorm": ["mlp.gate_up_proj"],
        "mlp.gate_up_proj": ["mlp.down_proj"],
    },
    "qwen2-moe": {
        **ATTENTION,
        "post_attention_layernorm": ["mlp.gate", *EXPERTS, *SHARED, "mlp.shared_expert_gate"],
        **{f"mlp.experts.{at}.up_proj": [f"mlp.experts.{at}.down_proj"] for at in range(4)},
        "mlp.shared_expert.up_proj": ["mlp.shared_expert.down_proj"],
    },
    "lfm2": {  # the gate behind the convolution is a linear's own output
        "operator_norm": ["conv.in_proj"],
        "conv.in_proj": ["conv.out_proj"],
        "ffn_norm": ["feed_forward.w1", "feed_forward.w3"],
        "feed_forward.w3": ["feed_forward.w2"],
    },
    "mamba": {"norm": ["mixer.in_proj"]},  # silu lies between its gate and the product
    "mamba2": {"norm": ["mixer.in_proj"], "mixer.norm": ["mixer.out_proj"]},
}


def pairs_of(row, **changes):
    spec = read_spec(Config(tiny_config(row, **changes), "config.json"))
    return {pair.producer: pair for pair in scale_pairs(summarize(spec))}


@pytest.mark.parametrize("row", EXPECTED)
def test_a_layer_s_pairs(row):
    layer = "backbone.layers.0" if row.startswith("mamba") else LAYER
    found = {
        name.removeprefix(f"{layer}."): [each.removeprefix(f"{layer}.") for each in pair.consumers]
        for name, pair in pairs_of(row).items()
        if name.startswith(f"{layer}.")
    }
    assert found == EXPECTED[row]


def test_a_head_of_its_own_has_a_pair_and_a_tied_one_has_none():
    assert pairs_of("llama")["model.norm"].consumers == ("lm_head",)
    assert "model.norm" not in pairs_of("llama-tied")
    assert "backbone.norm_f" not in pairs_of("mamba")


def test_query_heads_of_a_group_read_the_same_channels():
    pair = pairs_of("llama")[f"{LAYER}.self_attn.v_proj"]  # 4 heads, 2 kv heads of width 16
    first, second = list(range(16)), list(range(16, 32))
    assert pair.channels == 32
    assert pair.inputs.tolist() == [*first, *first, *second, *second]


@pytest.mark.parametrize(
    ("row", "name", "first", "channels"),
    [
        ("phi3", "model.layers.0.self_attn.qkv_proj", 64 + 32, 32),  # v's rows, after q and k
        ("phi3", "model.layers.0.mlp.gate_up_proj", 96, 96),  # up's rows, after gate's
        ("granite-hybrid-moe", f"{LAYER}.block_sparse_moe.input_linear.1", 32, 32),
        ("lfm2", "model.layers.0.conv.in_proj", 64, 64),  # the gate's rows: before, after, x
        ("llama", "model.layers.0.mlp.up_proj", 0, 96),
    ],
)
def test_rows_of_a_fused_weight(row, name, first, channels):
    pair = pairs_of(row)[name]
    assert (pair.is_norm, pair.first, pair.channels) == (False, first, channels)


def test_a_norm_s_pair_has_all_its_channels():
    pair = pairs_of("llama")[f"{LAYER}.input_layernorm"]
    assert pair.is_norm and pair.inputs.tolist() == list(range(64))
    assert pair.names == {pair.producer, *pair.consumers}


def test_norms_of_q_and_k_have_no_pair():
    """Rope lies between a head's norm and what reads it."""
    assert not any(name.endswith(("q_norm", "k_norm")) for name in pairs_of("qwen3"))
