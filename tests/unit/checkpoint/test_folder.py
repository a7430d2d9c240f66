"""A checkpoint folder is opened whole, or refused with a sentence and a hint."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from checkpoint_edits import edit_config, edit_weights, refuse, shard
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.checkpoint.formats.weights import open_weights
from slmkit.checkpoint.shards import Shards
from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import record
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from tiny_models import BASE, tiny_config

NORM = "model.norm.weight"


def test_a_checkpoint_has_spec_weights_and_tokenizer(tiny):
    checkpoint = open_checkpoint(tiny("qwen2"))
    assert checkpoint.name == "tiny-qwen2"
    assert checkpoint.spec.heads == 4
    assert checkpoint.shards.vector(NORM).shape == (64,)
    assert checkpoint.tokenizer.encode("the fox")


def test_shards_hold_the_same_weights_as_one_file(tiny):
    folder = tiny("llama")
    before = open_checkpoint(folder).shards
    expected = {name: before.rows(name, slice(None)) for name in before.where}
    shard(folder, parts=3)
    after = open_checkpoint(folder).shards
    assert set(after.where) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(after.rows(name, slice(None)), values)


def test_blocks_join_to_the_whole_matrix(tiny):
    shards = Shards(open_weights(tiny("llama")))
    name = "model.embed_tokens.weight"
    blocks = list(shards.blocks(name, elements=1000))
    assert len(blocks) > 5
    np.testing.assert_array_equal(
        np.concatenate([block for _, block in blocks]), shards.rows(name, slice(None))
    )


def test_a_missing_shard_is_named(tiny):
    folder = tiny("llama")
    names = shard(folder)
    (folder / names[1]).unlink()
    refuse(folder, "the shard model-1.safetensors is missing")


def test_a_truncated_shard_is_named(tiny):
    folder = tiny("llama")
    names = shard(folder)
    path = folder / names[0]
    path.write_bytes(path.read_bytes()[:-100])
    refuse(folder, "model-0.safetensors is truncated")


def test_a_tensor_in_two_shards_is_refused(tiny):
    folder = tiny("llama")
    first, second = shard(folder)
    tensors = safetensors.numpy.load_file(folder / second)
    twin = next(iter(safetensors.numpy.load_file(folder / first).items()))
    safetensors.numpy.save_file({**tensors, twin[0]: twin[1]}, folder / second)
    refuse(folder, "is in both")


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/passwd", "a/b.safetensors", ".."])
def test_an_index_cannot_name_files_elsewhere(tiny, name):
    folder = tiny("llama")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {NORM: name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refuse(folder, "is not in the folder itself")


@pytest.mark.parametrize("index", [[], {}, {"weight_map": 3}, {"weight_map": {"a": 1}}])
def test_an_index_without_a_map_is_refused(tiny, index):
    folder = tiny("llama")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refuse(folder, "has no weight_map")


def test_a_missing_tensor_is_named(tiny):
    folder = tiny("llama")
    edit_weights(folder, **{NORM: None})
    refuse(folder, f"no tensor {NORM}")


def test_a_wrong_shape_is_told_with_both_shapes(tiny):
    folder = tiny("llama")
    edit_weights(folder, **{NORM: np.ones(32, np.float32)})
    refuse(folder, rf"tensor {NORM} has the shape \(32,\), config.json says \(64,\)")


@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "inf")]
)
def test_a_number_that_is_none_is_named_when_read(tiny, value, said):
    folder = tiny("llama")
    bad = np.ones(64, np.float32)
    bad[7] = value
    edit_weights(folder, **{NORM: bad})
    with pytest.raises(CheckpointError, match=f"tensor {NORM} holds {said}"):
        open_checkpoint(folder).shards.vector(NORM)


def test_weights_that_are_no_floats_are_refused(tiny):
    folder = tiny("llama")
    edit_weights(folder, **{NORM: np.ones(64, np.int8)})
    refuse(folder, f"tensor {NORM} is stored as")


class Evil:
    """Pickled, it would write a file when loaded."""

    def __reduce__(self):
        return (Path.write_text, (Path("pwned"), "ran"))


def test_a_pickle_is_never_opened(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tiny("llama")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    error = refuse(folder, r"as pickle \(pytorch_model.bin\)")
    assert "weights_only=True" in error.hint
    assert not (tmp_path / "pwned").exists()


def test_a_folder_without_weights_is_refused(tiny):
    folder = tiny("llama")
    (folder / "model.safetensors").unlink()
    refuse(folder, r"has no model.safetensors")


def test_a_missing_tokenizer_is_refused(tiny):
    folder = tiny("llama")
    (folder / "tokenizer.json").unlink()
    refuse(folder, r"has no tokenizer.json")


def test_a_broken_tokenizer_is_refused(tiny):
    folder = tiny("llama")
    (folder / "tokenizer.json").write_text('{"model": 3}')
    refuse(folder, r"tokenizer.json cannot be read")


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tiny):
    refuse(tiny("llama", vocab_size=200), "becomes token 2.., and config.json's vocab_size is 200")


def test_an_unknown_model_type_lists_the_known(tiny):
    folder = tiny("llama")
    edit_config(folder, model_type="gpt_oss")
    error = refuse(folder, "model_type 'gpt_oss' is not supported")
    assert "llama, mamba, mamba2, mistral, olmoe, phi3" in error.hint


NEEDED = [
    key for key in BASE if key not in ("hidden_act", "num_key_value_heads") and "token" not in key
]


@pytest.mark.parametrize("key", NEEDED)
def test_a_number_that_matters_and_is_missing_is_named(tiny, key):
    folder = tiny("llama")
    edit_config(folder, **{key: ...})
    refuse(folder, f"config.json: {key} is missing")


@pytest.mark.parametrize("key", ["num_hidden_layers", "rms_norm_eps", "rope_theta", "vocab_size"])
@pytest.mark.parametrize("value", ["12", -1, 0, True, [1], float("nan")])
def test_a_wrong_value_is_named_by_its_key(tiny, key, value):
    folder = tiny("llama")
    edit_config(folder, **{key: value})
    refuse(folder, f"config.json: {key} is")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"num_key_value_heads": 3}, "not a multiple of"),
        ({"num_attention_heads": 6, "num_key_value_heads": 2}, "head_dim is missing"),
        ({"tie_word_embeddings": 1}, "expected true or false"),
        ({"rms_norm_eps": 1e30}, r"rms_norm_eps is 1e\+30, expected a positive number, at most 1"),
    ],
)
def test_configs_that_would_give_a_wrong_model_are_refused(tiny, changes, said):
    folder = tiny("llama")
    edit_config(folder, **changes)
    refuse(folder, said)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff\xfe", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused(tiny, text):
    folder = tiny("llama")
    (folder / "config.json").write_text(text, encoding="latin-1")
    refuse(folder, "config.json")


def test_a_folder_without_a_config_is_refused(tmp_path):
    refuse(tmp_path, r"has no config.json")
    refuse(tmp_path / "nowhere", "is not a folder")


def test_the_fingerprint_follows_the_bytes(tiny):
    folder = tiny("llama")
    first, again = (
        Shards(open_weights(folder)).fingerprint,
        Shards(open_weights(folder)).fingerprint,
    )
    edit_weights(folder, **{NORM: np.ones(64, np.float32)})
    assert first == again != Shards(open_weights(folder)).fingerprint


def test_every_tensor_of_the_architecture_is_checked(tiny):
    folder = tiny("qwen3")
    weights = record(read_spec(Config(tiny_config("qwen3"), "config.json"))).weights
    for name in weights:
        before = safetensors.numpy.load_file(folder / "model.safetensors")[name]
        edit_weights(folder, **{name: np.ones((3, 3), np.float32)})
        refuse(folder, "has the shape")
        edit_weights(folder, **{name: before})
