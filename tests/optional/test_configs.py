"""Configurations of public models: read, or refused with the fact; and ours agree with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optional_data import CONFIGS, files_of, needs, path_of
from phone_shapes import SHAPES
from phone_shapes import spec_of as shape_of
from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import record
from slmkit.models.config import Config
from slmkit.models.registry import MODELS, read_spec

pytestmark = needs(CONFIGS)
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
FILES = {  # of the shapes whose files have longer names
    "qwen2.5-0.5b": "qwen2.5-0.5b-instruct",
    "qwen1.5-1.8b": "qwen1.5-1.8b-chat",
    "qwen1.5-moe-a2.7b": "qwen1.5-moe-a2.7b-chat",
    "llama-3.2-3b": "llama-3.2-3b-instruct",
    "gemma-2-2b": "gemma-2-2b-it",
    "gemma-3-1b": "gemma-3-1b-it",
    "phi-3-mini-4k": "phi-3-mini-4k-instruct",
    "olmoe-1b-7b": "olmoe-1b-7b-0924",
    "mamba-130m": "mamba-130m-hf",
}


def config_of(name: str) -> Config:
    """A public config.json."""
    path = path_of(f"{CONFIGS}/{name}.json")
    return Config(json.loads(path.read_text(encoding="utf-8")), path.name)


@pytest.mark.parametrize("path", files_of(CONFIGS, "*.json"), ids=lambda path: path.stem)
def test_real_configs_are_read_or_refused_with_the_fact(path: Path) -> None:
    config = config_of(path.stem)
    assert config.values["model_type"] in MODELS
    if path.stem not in REFUSED:
        assert record(read_spec(config)).weights
        return
    with pytest.raises(CheckpointError, match=REFUSED[path.stem]):
        read_spec(config)


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_parameter_counts_are_met(name: str) -> None:
    weights = record(read_spec(config_of(name))).weights
    assert sum(weight.size for weight in weights.values()) == PARAMETERS[name]


@pytest.mark.parametrize("name", SHAPES)
def test_the_shapes_of_the_tests_are_the_published_ones(name: str) -> None:
    assert shape_of(name) == read_spec(config_of(FILES.get(name, name)))


def test_gelu_in_gemma_s_first_files_means_its_tanh_form() -> None:
    assert read_spec(config_of("gemma-2b")).activation == "gelu_tanh"


def test_phi_3_5_has_48_pairs_and_no_window_shorter_than_its_context() -> None:
    spec = read_spec(config_of("phi-3.5-mini-instruct"))
    assert spec.rope.width == spec.head_width == 96
    assert spec.windows == (None,) * 32
