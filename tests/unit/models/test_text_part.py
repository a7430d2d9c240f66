"""The text part of a larger model's config.json and weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy

from checkpoint_edits import refuse
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from tiny_models import tiny_config


def larger(folder, prefix="language_model.", **outside):
    """Make a tiny checkpoint the text part of one that also sees. Its config.json."""
    path = folder / "config.json"
    text = json.loads(path.read_text())
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {}, **outside}
    path.write_text(json.dumps(config))
    weights = folder / "model.safetensors"
    named = {prefix + name: each for name, each in safetensors.numpy.load_file(weights).items()}
    named["vision_tower.vision_model.embeddings.patch_embedding.bias"] = np.ones(8, np.float32)
    safetensors.numpy.save_file(named, weights)
    return config


@pytest.mark.parametrize("architecture", ["gemma3", "qwen3", "mistral"])
def test_the_text_part_is_the_model_itself(tiny, architecture):
    folder = tiny(architecture)
    alone = open_checkpoint(folder)
    table = alone.shards.rows("model.embed_tokens.weight", slice(None)).copy()
    larger(folder)
    found = open_checkpoint(folder)
    assert found.spec == alone.spec
    assert found.tokenizer.stop_ids == alone.tokenizer.stop_ids
    np.testing.assert_array_equal(
        found.shards.rows("model.embed_tokens.weight", slice(None)), table
    )
    whole, named, *_, left = found.notices
    assert "of a larger model (gemma3)" in whole
    assert "'language_model.model.'" in named or "'language_model.'" in named
    assert left.startswith("left out 1 tensors of vision and audio")


def test_gemma_3_s_published_text_config_is_completed():
    published = {  # of the 4B model
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    config = {"model_type": "gemma3", "text_config": published, "vision_config": {}}
    spec = read_spec(Config(config, "config.json"))
    assert (spec.vocabulary, spec.heads, spec.kv_heads, spec.head_width) == (262208, 8, 4, 256)
    assert spec.windows[:6] == (1024,) * 5 + (None,)
    assert spec.rope.frequencies[0] == 1 / 8
    assert spec.tied


@pytest.mark.parametrize("kind", ["ministral3", "gemma3n_text", "qwen3_5_text"])
def test_a_text_part_of_another_architecture_is_named(tiny, kind):
    folder = tiny("llama", model_type="llama")
    config = larger(folder)
    config["text_config"]["model_type"] = kind
    (folder / "config.json").write_text(json.dumps(config))
    error = refuse(folder, f"'gemma3' has a text part of the model_type '{kind}'")
    assert "qwen3" in error.hint


def test_two_values_of_the_tie_are_told():
    text = tiny_config("qwen3")
    config = {"model_type": "some_vl", "text_config": text, "tie_word_embeddings": False}
    with pytest.raises(CheckpointError, match="text_config: tie_word_embeddings is True, and"):
        read_spec(Config(config, "config.json"))
    text = {key: value for key, value in text.items() if key != "tie_word_embeddings"}
    assert not read_spec(Config({**config, "text_config": text}, "config.json")).tied
