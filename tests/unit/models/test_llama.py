"""The llama family's facts from config.json."""

from __future__ import annotations

import json

import pytest

from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import record
from slmkit.models.config import Config
from slmkit.models.registry import MODELS, read_spec
from tiny_models import SHARED, tiny_config

CONFIGS = sorted((SHARED / "model_configs").glob("*.json"))
# Published parameter counts; the source of each is the model's own card.
PARAMETERS = {
    "tinyllama-1.1b-chat-v1.0": 1_100_048_384,
    "llama-3.2-1b-instruct": 1_235_814_400,
    "smollm2-135m": 134_515_008,
    "qwen2.5-0.5b-instruct": 494_032_768,
    "qwen3-0.6b": 596_049_920,
    "olmoe-1b-7b-0924": 6_919_161_856,
    "qwen1.5-moe-a2.7b-chat": 14_315_784_192,
    "mamba-130m-hf": 129_135_360,
    "mamba-2.8b-hf": 2_768_345_600,
    "gemma-2b": 2_506_172_416,
    "gemma-2-2b-it": 2_614_341_888,
    "gemma-3-1b-it": 999_885_952,
    "phi-3-mini-4k-instruct": 3_821_079_552,
    "phi-3.5-mini-instruct": 3_821_079_552,
}


# Files of which only some facts are public, or whose facts no model for phones has: what is said.
REFUSED = {
    "granite-3.3-2b-instruct-class": "max_position_embeddings is missing",
    "granite-3.0-1b-a400m-instruct": "embedding_multiplier is missing",
    "granite-3.1-3b-a800m-instruct": "embedding_multiplier is missing",
    "mamba2-7b-transformers-defaults": "n_groups is 8; only 1 is supported",
}


def spec_of(architecture, **changes):
    return read_spec(Config(tiny_config(architecture, **changes), "config.json"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_real_configs_are_read_or_refused_with_the_fact(path):
    config = Config(json.loads(path.read_text(encoding="utf-8")), path.name)
    assert config.values["model_type"] in MODELS
    if path.stem not in REFUSED:
        assert record(read_spec(config)).weights
        return
    with pytest.raises(CheckpointError, match=REFUSED[path.stem]):
        read_spec(config)


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_parameter_counts_are_met(name):
    path = SHARED / "model_configs" / f"{name}.json"
    spec = read_spec(Config(json.loads(path.read_text(encoding="utf-8")), path.name))
    assert sum(weight.size for weight in record(spec).weights.values()) == PARAMETERS[name]


def test_mistral_windows_every_layer():
    assert spec_of("mistral-window").windows == (16, 16)
    assert spec_of("mistral").windows == (None, None)


def test_qwen_windows_layers_from_max_window_layers_on():
    assert spec_of("qwen2-window").windows == (None, 16)


def test_qwen_ignores_a_window_that_is_switched_off():
    assert spec_of("qwen2-window", use_sliding_window=False).windows == (None, None)


def test_layer_types_are_obeyed_where_they_are_written():
    kinds = ["sliding_attention", "full_attention"]
    assert spec_of("qwen2-window", layer_types=kinds).windows == (16, None)


def test_layer_types_of_another_kind_are_refused():
    with pytest.raises(CheckpointError, match="layer_types"):
        spec_of("qwen2-window", layer_types=["chunked_attention", "full_attention"])


def test_biases_follow_the_family():
    assert spec_of("qwen2").qkv_bias and not spec_of("qwen2").output_bias
    assert spec_of("llama-biases").output_bias and spec_of("llama-biases").mlp_bias
    assert not spec_of("mistral").qkv_bias
