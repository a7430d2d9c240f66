"""The dataflow of a model: who reads which value, and what feeds the residual stream."""

from __future__ import annotations

import pytest

from slmkit.interpreters.dataflow import Node, dataflow, sources
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from tiny_models import TINY, tiny_config


def flow_of(row):
    return dataflow(read_spec(Config(tiny_config(row), "config.json")))


def named(flow, name):
    (node,) = (node for node in flow.nodes if node.name == name)
    return node


def test_a_value_knows_what_reads_it():
    flow = flow_of("llama")
    norm = named(flow, "model.layers.0.input_layernorm")
    projections = [f"model.layers.0.self_attn.{each}_proj" for each in "qkv"]
    assert [reader.name for reader in norm.readers] == projections
    assert norm.only_reader is None
    down = named(flow, "model.layers.0.mlp.down_proj")
    assert down.inputs[0].op == "mul" and down.inputs[0].only_reader is down
    assert (down.width, down.inputs[0].width) == (64, 96)


def test_parts_of_a_fused_weight_know_where_they_begin():
    fused = named(flow_of("phi3"), "model.layers.0.self_attn.qkv_proj")
    parts = [(part.op, part.first, part.width) for part in fused.readers]
    assert parts == [("split", 0, 64), ("split", 64, 32), ("split", 96, 32)]


@pytest.mark.parametrize("row", TINY)
def test_every_update_of_the_residual_stream_has_its_weights(row):
    flow = flow_of(row)
    for update in flow.updates:
        assert {node.width for node in sources(update)} == {64}


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ("llama", ["self_attn.o_proj", "mlp.down_proj"]),
        ("granite", ["self_attn.o_proj", "mlp.down_proj"]),  # behind a factor
        ("gemma2", ["post_attention_layernorm", "post_feedforward_layernorm"]),
        (
            "qwen2-moe",
            [
                "self_attn.o_proj",
                *(f"mlp.experts.{number}.down_proj" for number in range(4)),
                "mlp.shared_expert.down_proj",
            ],
        ),
        ("lfm2", ["conv.out_proj", "feed_forward.w2"]),
    ],
)
def test_the_residual_stream_is_fed_by(row, names):
    flow = flow_of(row)
    fed = [node.name for update in flow.updates for node in sources(update)]
    assert fed[: len(names)] == [f"model.layers.0.{name}" for name in names]


def test_a_stream_that_another_op_feeds_is_an_error():
    with pytest.raises(ValueError, match="fed by the op tanh"):
        list(sources(Node("tanh")))
