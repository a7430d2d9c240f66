"""Which files, names and tensors of a checkpoint are read, left out or refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from checkpoint_edits import edit_config, edit_weights, refuse, shard
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.checkpoint.tensor_names import renamed, spellings
from slmkit.errors import CheckpointError
from tiny_models import TINY, write_checkpoint

ONE = np.ones(8, np.float32)
EMBEDDING = "model.embed_tokens.weight"


def tensors(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def rename(folder, change):
    """Write the checkpoint's tensors under other names."""
    named = {change(name): each for name, each in tensors(folder).items()}
    safetensors.numpy.save_file(named, folder / "model.safetensors")


def test_one_file_wins_over_the_index_of_older_shards(tiny, tmp_path):
    folder = tiny("llama")
    shard(folder)
    newer = write_checkpoint(
        tmp_path / "newer", json.loads((folder / "config.json").read_text()), 7
    )
    (newer / "model.safetensors").rename(folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    np.testing.assert_array_equal(
        checkpoint.shards.rows(EMBEDDING, slice(None)), tensors(folder)[EMBEDDING]
    )
    (notice,) = checkpoint.notices
    assert "those of model.safetensors; model-0.safetensors and 1 more and" in notice


def test_files_beside_the_shards_are_named(tiny):
    folder = tiny("llama")
    shard(folder)
    safetensors.numpy.save_file({"x": ONE}, folder / "consolidated.safetensors")
    (notice,) = open_checkpoint(folder).notices
    assert "consolidated.safetensors beside are not read" in notice


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "adapters.safetensors"]
)
@pytest.mark.parametrize("with_base", [True, False])
def test_an_adapter_is_refused_by_name(tiny, name, with_base):
    folder = tiny("llama")
    (folder / name).write_text('{"base_model_name_or_path": "some/base"}')
    if not with_base:
        (folder / "model.safetensors").unlink()
    error = refuse(folder, f"holds an adapter .LoRA.*: {name}")
    assert "--adapter" in error.hint
    assert ("some/base" in error.message) == (name == "adapter_config.json")


def test_tensors_of_an_adapter_in_the_file_are_named(tiny):
    folder = tiny("llama")
    edit_weights(folder, **{"model.layers.0.self_attn.q_proj.lora_A": ONE})
    error = refuse(folder, "1 tensors that its architecture does not use, first .*lora_A")
    assert "--adapter" in error.hint


def test_a_tensor_that_nobody_uses_is_refused(tiny):
    folder = tiny("llama")
    edit_weights(folder, **{"model.layers.0.self_attn.sinks": ONE})
    refuse(folder, "1 tensors that its architecture does not use, first .*sinks")


LEFT = {
    "model.layers.0.self_attn.rotary_emb.inv_freq": "rotary frequencies",
    "rotary_emb.inv_freq": "rotary frequencies",
    "model.layers.0.attn.masked_bias": "attention masks",
    "mtp.fc.weight": "multi-token prediction",
    "model.mtp_layers.0.input_proj.weight": "multi-token prediction",
    "model.layers.2.self_attn.q_proj.weight": "multi-token prediction",
    "vision_tower.vision_model.embeddings.patch_embedding.bias": "vision and audio",
    "model.visual.blocks.0.attn.qkv.weight": "vision and audio",
    "multi_modal_projector.mm_soft_emb_norm.weight": "vision and audio",
    "audio_tower.conv.weight": "vision and audio",
}


@pytest.mark.parametrize("name", LEFT)
def test_tensors_left_out_on_purpose_are_counted(tiny, name):
    folder = tiny("llama")
    edit_config(folder, num_nextn_predict_layers=1)
    edit_weights(folder, **{name: ONE})
    (notice,) = open_checkpoint(folder).notices
    assert notice.startswith(f"left out 1 tensors of {LEFT[name]}")


def test_layers_beyond_the_model_s_are_refused_where_none_predict(tiny):
    folder = tiny("llama")
    edit_weights(folder, **{"model.layers.2.self_attn.q_proj.weight": ONE})
    refuse(folder, "does not use, first model.layers.2")


CHANGES = {
    "without model.": lambda name: name.removeprefix("model."),
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled layers": lambda name: name.replace("layers.0.", "layers.0._orig_mod."),
    "parallel": lambda name: f"module.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "of transformers 5's multimodal models": lambda name: (
        name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name
    ),
    "of older multimodal models": lambda name: f"language_model.{name}",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("architecture", ["llama", "granite-moe", "mamba2", "lfm2"])
def test_other_spellings_of_the_names_are_the_same_weights(tiny, architecture, change):
    folder = tiny(architecture)
    before = open_checkpoint(folder)
    expected = {name: before.shards.where[name].floats(name) for name in before.shards.where}
    rename(folder, change)
    after = open_checkpoint(folder)
    assert set(after.shards.where) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(after.shards.where[name].floats(name), values)
    assert not before.notices
    changed = any(change(name) != name for name in expected)
    assert bool(after.notices) == changed


def test_a_tensor_under_two_spellings_is_refused(tiny):
    folder = tiny("llama")
    edit_weights(folder, **{"language_model.model.norm.weight": np.ones(64, np.float32)})
    refuse(folder, "model.norm.weight and language_model.model.norm.weight are both")


@given(names=st.lists(st.text("model.lanugeyrs_0", max_size=20), unique=True))
def test_renaming_never_invents_or_loses_a_tensor(names):
    expected = {"model.norm.weight", *(f"model.{name}" for name in names[::2])}
    try:
        changes, notices = renamed(names, expected)
    except CheckpointError:
        return
    assert set(changes) <= set(names) - expected
    assert set(changes.values()) <= expected
    assert len(set(changes.values())) == len(changes)
    assert bool(notices) == bool(changes)


def test_the_likeliest_spelling_is_the_name_itself():
    assert next(iter(spellings("model.norm.weight"))) == ("", "model.norm.weight")


def test_a_copy_of_a_tied_head_is_no_matter(tiny):
    folder = tiny("llama-tied")
    edit_weights(folder, **{"lm_head.weight": tensors(folder)[EMBEDDING]})
    checkpoint = open_checkpoint(folder)
    assert checkpoint.spec.tied
    assert not checkpoint.notices


def test_a_tied_head_that_differs_is_refused(tiny):
    folder = tiny("llama-tied")
    table = tensors(folder)[EMBEDDING]
    table[-1, -1] += 1
    edit_weights(folder, **{"lm_head.weight": table})
    error = refuse(folder, "lm_head.weight differs from model.embed_tokens.weight")
    assert "tie_word_embeddings to false" in error.hint
    edit_config(folder, tie_word_embeddings=False)
    assert not open_checkpoint(folder).spec.tied


def test_of_a_tied_pair_the_head_alone_may_be_stored(tiny):
    folder = tiny("llama-tied")
    table = tensors(folder)[EMBEDDING]
    edit_weights(folder, **{EMBEDDING: None, "lm_head.weight": table})
    checkpoint = open_checkpoint(folder)
    np.testing.assert_array_equal(checkpoint.shards.rows(EMBEDDING, slice(None)), table)
    assert "the two are tied" in checkpoint.notices[0]


def test_a_quantization_config_over_floats_is_a_notice(tiny):
    folder = tiny("llama")
    edit_config(folder, quantization_config={"quant_method": "bitsandbytes"})
    (notice,) = open_checkpoint(folder).notices
    assert "quantization_config (bitsandbytes)" in notice


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("bitsandbytes", {"model.norm.weight": np.ones(64, np.uint8)}),
        ("hqq", {"model.layers.0.mlp.up_proj.W_q": np.ones((2, 2), np.int32)}),
        ("gptq", {"model.layers.0.mlp.up_proj.weight": None}),
        ("bitnet", {}),
    ],
)
def test_a_model_that_is_quantized_is_refused(tiny, method, changes):
    folder = tiny("llama")
    edit_config(folder, quantization_config={"quant_method": method})
    edit_weights(folder, **changes)
    refuse(folder, rf"already quantized \({method}\)")


@pytest.mark.parametrize("architecture", TINY)
def test_no_tiny_model_has_a_notice(tiny, architecture):
    assert not open_checkpoint(tiny(architecture)).notices


def test_doubles_are_read_as_the_nearest_floats(tiny):
    folder = tiny("llama")
    expected = tensors(folder)["model.norm.weight"].astype(np.float64) * (1 + 2**-40)
    edit_weights(folder, **{"model.norm.weight": expected})
    read = open_checkpoint(folder).shards.vector("model.norm.weight")
    np.testing.assert_array_equal(read, expected.astype(np.float32))


def test_a_double_beyond_float32_is_refused(tiny):
    folder = tiny("llama")
    large = np.full(64, 1e39)
    edit_weights(folder, **{"model.norm.weight": large})
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        open_checkpoint(folder).shards.vector("model.norm.weight")


@pytest.mark.parametrize("row", sorted(TINY))
def test_the_classes_of_a_family_are_no_notice(tiny, row):
    folder = tiny(row)
    own = json.loads((folder / "config.json").read_text())["model_type"].removesuffix("_text")
    name = "".join(part.capitalize() for part in own.split("_"))
    edit_config(folder, architectures=[f"{name}ForCausalLM", f"{name}Model"])
    assert open_checkpoint(folder).notices == ()


def test_a_class_of_another_family_is_said(tiny):
    folder = tiny("llama")
    edit_config(folder, architectures=["MistralForCausalLM"])
    (notice,) = open_checkpoint(folder).notices
    assert "architectures names MistralForCausalLM, which is not of model_type llama" in notice
