"""SmolLM3's facts from config.json: which layers have no rope, which have a window."""

from __future__ import annotations

import pytest

from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import summarize
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from slmkit.models.spec import Spec
from tiny_models import tiny_config

SMOLLM3_3B = {  # the defaults of transformers' SmolLM3Config, the shape of SmolLM3-3B
    "model_type": "smollm3",
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "max_position_embeddings": 32768,
    "mlp_bias": False,
    "no_rope_layers": [1, 1, 1, 0] * 9,
    "no_rope_layer_interval": 4,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 2000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "vocab_size": 128256,
}
PARAMETERS = 3_075_098_624  # of transformers' SmolLM3ForCausalLM of that shape


def spec_of(**changes: object) -> Spec:
    return read_spec(Config({**SMOLLM3_3B, **changes}, "config.json"))


def test_the_shape_of_3b_has_its_parameters_and_no_rope_in_every_fourth_layer():
    spec = spec_of()
    assert summarize(spec).parameters == PARAMETERS
    assert spec.nope_layers == tuple(range(3, 36, 4))
    assert spec.tied
    assert set(spec.windows) == {None}


def test_the_interval_holds_where_no_list_is_given():
    assert spec_of(no_rope_layers=None).nope_layers == tuple(range(3, 36, 4))
    assert spec_of(no_rope_layers=None, no_rope_layer_interval=18).nope_layers == (17, 35)


@pytest.mark.parametrize(
    ("changes", "windowed"),
    [
        ({"use_sliding_window": True}, ()),
        ({"use_sliding_window": True, "sliding_window": 64}, (1, 3)),
        ({"layer_types": ["full_attention"] * 4, "use_sliding_window": True}, ()),
        (
            {
                "layer_types": ["full_attention", "sliding_attention"] * 2,
                "sliding_window": 64,
                "no_rope_layers": [1, 1, 1, 1],
            },
            (1, 3),
        ),
    ],
)
def test_layers_without_rope_have_the_window_unless_their_types_are_named(changes, windowed):
    values = {"num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 0], **changes}
    spec = read_spec(Config(tiny_config("smollm3", **values), "config.json"))
    assert [layer for layer, each in enumerate(spec.windows) if each] == list(windowed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"no_rope_layers": [1, 1, 1]}, "no_rope_layers has 3 entries, the model 36 layers"),
        ({"no_rope_layers": "all"}, "no_rope_layers is 'all'"),
        ({"no_rope_layers": None, "no_rope_layer_interval": 0}, "no_rope_layer_interval is 0"),
        ({"layer_types": ["sliding_attention"] * 36}, "sliding_window is missing"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ],
)
def test_a_wrong_fact_is_refused_by_its_key(changes, message):
    with pytest.raises(CheckpointError, match=message):
        spec_of(**changes)
