"""Adapters are merged into the weights that they name, in float32, and what was done is said."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import safetensors.numpy

from checkpoint_edits import edit_config
from peft_adapters import edit_tensors, stored, write_adapter
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.errors import CheckpointError
from slmkit.workflows.inspect import inspect

Q = "model.layers.1.self_attn.q_proj"
ALL = slice(None)


@pytest.fixture
def base(tiny):
    return tiny("llama")


def change_of(folder, name, scale):
    """scale * B @ A in float64."""
    tensors = stored(folder)
    a, b = (tensors[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    return scale * (b.astype(np.float64) @ a.astype(np.float64))


def rows_of(folder, tensor, *adapters, rows=ALL):
    return open_checkpoint(folder, adapters=adapters).shards.rows(tensor, rows)


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 8 / 4),
        ({"use_rslora": True}, 8 / math.sqrt(4)),
        ({"alpha_pattern": {r"layers\.1\..*": 6}}, 6 / 4),
        ({"alpha_pattern": {r"layers\.0\..*": 6}}, 8 / 4),
        ({"target_modules": r".*\.(q|v)_proj"}, 8 / 4),
        ({"target_modules": "all-linear", "exclude_modules": r".*(k|o|gate|up|down)_proj"}, 2),
    ],
)
def test_a_weight_becomes_itself_and_b_times_a(base, tmp_path, settings, scale):
    adapter = write_adapter(tmp_path / "a", base, **settings)
    before, after = rows_of(base, f"{Q}.weight"), rows_of(base, f"{Q}.weight", adapter)
    np.testing.assert_allclose(after, before + change_of(adapter, Q, scale), atol=1e-6)
    untouched = "model.layers.1.mlp.up_proj.weight"
    np.testing.assert_array_equal(rows_of(base, untouched, adapter), rows_of(base, untouched))


def test_blocks_and_rows_of_it_are_the_same(base, tmp_path):
    adapter = write_adapter(tmp_path / "a", base)
    shards = open_checkpoint(base, adapters=[adapter]).shards
    whole = shards.rows(f"{Q}.weight", ALL)
    blocks = np.concatenate([block for _, block in shards.blocks(f"{Q}.weight")])
    np.testing.assert_array_equal(blocks, whole)
    picked = np.array([5, 0, 5])
    np.testing.assert_allclose(shards.rows(f"{Q}.weight", picked), whole[picked], atol=1e-6)


def test_several_are_merged_in_their_order(base, tmp_path):
    one = write_adapter(tmp_path / "one", base, seed=1)
    two = write_adapter(tmp_path / "two", base, ["q_proj"], rank=3, alpha=3, seed=2)
    expected = rows_of(base, f"{Q}.weight") + change_of(one, Q, 2) + change_of(two, Q, 1)
    found = open_checkpoint(base, adapters=[one, two])
    np.testing.assert_allclose(found.shards.rows(f"{Q}.weight", ALL), expected, atol=1e-6)
    assert [each.name for each in found.shards.adapters] == ["one", "two"]
    fingerprints = {
        open_checkpoint(base, adapters=each).shards.fingerprint
        for each in ([], [one], [two], [one, two], [two, one])
    }
    assert len(fingerprints) == 5
    assert found.shards.base_fingerprint == open_checkpoint(base).shards.fingerprint


def test_what_was_merged_is_said(base, tmp_path):
    adapter = write_adapter(tmp_path / "mine", base)
    (notice,) = inspect(base, [adapter]).notices
    assert notice == (
        "with the adapter mine (LoRA, rank 4, alpha 8): 4 matrices; it says that it was trained on "
        "some/base"
    )
    (facts,) = open_checkpoint(base, adapters=[adapter]).shards.adapters
    assert (facts.rank, facts.alpha, facts.matrices) == (4, 8, 4)
    assert len(facts.weights_sha256) == len(facts.config_sha256) == 64


def test_an_untrained_adapter_is_said_to_change_nothing(base, tmp_path):
    adapter = write_adapter(tmp_path / "a", base)
    tensors = stored(adapter)
    zero = {name: 0 * each if "lora_B" in name else each for name, each in tensors.items()}
    safetensors.numpy.save_file(zero, adapter / "adapter_model.safetensors")
    notices = open_checkpoint(base, adapters=[adapter]).notices
    assert "the adapter a changes nothing: all of its B are zero" in notices


def test_names_of_a_larger_model_are_found(base, tmp_path):
    """Adapters of a model that also sees name its text part otherwise, in expressions too."""
    long = "base_model.model.model.language_model."
    plain = write_adapter(tmp_path / "plain", base)
    adapter = write_adapter(tmp_path / "a", base, target_modules=r".*language_model.*(q|v)_proj")
    tensors = {
        name.replace("base_model.model.model.", long): each
        for name, each in stored(adapter).items()
    }
    tensors[f"{long.replace('language_model', 'vision_tower')}q.lora_A.weight"] = np.ones((4, 4))
    safetensors.numpy.save_file(tensors, adapter / "adapter_model.safetensors")
    found = open_checkpoint(base, adapters=[adapter])
    np.testing.assert_array_equal(
        found.shards.rows(f"{Q}.weight", ALL), rows_of(base, f"{Q}.weight", plain)
    )
    assert "left out 1 tensors of vision and audio" in found.notices


def test_whole_tensors_take_the_place_of_the_base_s_with_its_transforms(tiny, tmp_path):
    base = tiny("gemma")
    norm, gain = "model.norm.weight", np.full(64, 0.5, np.float32)
    adapter = write_adapter(tmp_path / "a", base, modules_to_save=["norm"])
    edit_tensors(adapter, nothing=None)
    tensors = stored(adapter) | {f"base_model.model.{norm}": gain}
    safetensors.numpy.save_file(tensors, adapter / "adapter_model.safetensors")
    shards = open_checkpoint(base, adapters=[adapter]).shards
    np.testing.assert_array_equal(shards.vector(norm), gain + 1)


def test_an_adapter_in_the_model_s_own_folder_is_merged_where_it_is_named(base, tmp_path):
    adapter = write_adapter(tmp_path / "a", base)
    expected = rows_of(base, f"{Q}.weight", adapter)
    for path in adapter.iterdir():
        shutil.copy(path, base)
    with pytest.raises(CheckpointError, match="holds an adapter") as caught:
        open_checkpoint(base)
    assert "--adapter" in caught.value.hint
    np.testing.assert_array_equal(rows_of(base, f"{Q}.weight", base), expected)
    (notice,) = open_checkpoint(base, adapters=[base]).notices
    assert "4 matrices" in notice


def test_another_tokenizer_beside_the_adapter_is_said(base, tmp_path):
    adapter = write_adapter(tmp_path / "a", base)
    library = json.loads((base / "tokenizer.json").read_text())
    (adapter / "tokenizer.json").write_text(json.dumps({**library, "padding": {"x": 1}}))
    assert len(open_checkpoint(base, adapters=[adapter]).notices) == 1
    (adapter / "tokenizer.json").write_text(json.dumps({**library, "normalizer": {"x": 1}}))
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    notices = open_checkpoint(base, adapters=[adapter]).notices
    assert [each.partition(" beside")[0] for each in notices[1:]] == [
        "the tokenizer.json",
        "the chat template",
    ]


def test_experts_without_an_adapter_are_said(tiny, tmp_path):
    base = tiny("qwen2-moe")
    adapter = write_adapter(tmp_path / "a", base, ["q_proj", "gate_proj"])
    edit_tensors(adapter, **{r"experts\.\d": None})
    notices = open_checkpoint(base, adapters=[adapter]).notices
    assert "the adapter leaves the experts as they are" in notices


def test_experts_with_one_are_merged(tiny, tmp_path):
    base = tiny("qwen2-moe")
    adapter = write_adapter(tmp_path / "a", base, ["gate_proj", "down_proj"])
    name = "model.layers.0.mlp.experts.2.down_proj"
    expected = rows_of(base, f"{name}.weight") + change_of(adapter, name, 2)
    np.testing.assert_allclose(rows_of(base, f"{name}.weight", adapter), expected, atol=1e-6)


@pytest.mark.parametrize("architecture", ["qwen2", "gemma3", "phi3", "granite-hybrid", "lfm2"])
def test_linears_of_every_kind_have_the_names_that_the_file_has(tiny, tmp_path, architecture):
    base = tiny(architecture)
    linears = ("qkv_proj", "gate_up_proj", "q_proj", "in_proj", "out_proj", "w1")
    adapter = write_adapter(tmp_path / "a", base, linears)
    found = open_checkpoint(base, adapters=[adapter])
    changed = {name.partition(".lora_")[0] for name in stored(adapter)}
    assert len(changed) >= 2
    for name in (each.removeprefix("base_model.model.") for each in changed):
        expected = rows_of(base, f"{name}.weight") + change_of(adapter, name, 2)
        np.testing.assert_allclose(found.shards.rows(f"{name}.weight", ALL), expected, atol=2e-6)


def test_a_tied_head_is_changed_with_its_table_alike_or_not_at_all(base, tmp_path):
    edit_config(base, tie_word_embeddings=True)
    tensors = safetensors.numpy.load_file(base / "model.safetensors")
    del tensors["lm_head.weight"]
    safetensors.numpy.save_file(tensors, base / "model.safetensors")
    adapter = write_adapter(tmp_path / "a", base, modules_to_save=["lm_head", "embed_tokens"])
    table = np.ones((320, 64), np.float32)
    own = stored(adapter)

    def save(head):
        both = {
            "base_model.model.lm_head.weight": head,
            "base_model.model.model.embed_tokens.weight": table,
        }
        safetensors.numpy.save_file(own | both, adapter / "adapter_model.safetensors")

    save(table + 1)
    with pytest.raises(CheckpointError, match="tie_word_embeddings is true"):
        open_checkpoint(base, adapters=[adapter])
    save(table.copy())
    np.testing.assert_array_equal(rows_of(base, "model.embed_tokens.weight", adapter), table)


def test_dora_scales_each_row_to_its_magnitude(base, tmp_path):
    adapter = write_adapter(tmp_path / "a", base, use_dora=True)
    random, tensors = np.random.default_rng(4), stored(adapter)
    for name in [each for each in tensors if "lora_B" in each]:
        lengths = random.uniform(0.5, 2, len(tensors[name])).astype(np.float32)
        tensors[f"{name.partition('.lora_')[0]}.lora_magnitude_vector"] = lengths
    safetensors.numpy.save_file(tensors, adapter / "adapter_model.safetensors")
    changed = rows_of(base, f"{Q}.weight") + change_of(adapter, Q, 2)
    lengths = tensors[f"base_model.model.{Q}.lora_magnitude_vector"]
    expected = changed * (lengths / np.linalg.norm(changed, axis=1))[:, None]
    np.testing.assert_allclose(rows_of(base, f"{Q}.weight", adapter), expected, atol=2e-6)
    (facts,) = open_checkpoint(base, adapters=[adapter]).shards.adapters
    assert facts.kind == "DoRA"


def test_a_table_has_its_adapter_the_other_way_round(base, tmp_path):
    """PEFT's A of an embedding is (rank, tokens), its B (width, rank)."""
    targets = ["embed_tokens", "q_proj", "v_proj"]
    adapter = write_adapter(tmp_path / "a", base, target_modules=targets)
    random, at = np.random.default_rng(4), "base_model.model.model.embed_tokens.lora_embedding"
    down, up = random.standard_normal((4, 320)), random.standard_normal((64, 4))
    more = {f"{at}_A": down.astype(np.float32), f"{at}_B": up.astype(np.float32)}
    safetensors.numpy.save_file(stored(adapter) | more, adapter / "adapter_model.safetensors")
    table, picked = "model.embed_tokens.weight", np.array([7, 319, 7])
    expected = rows_of(base, table, rows=picked) + 2 * (up @ down).T[picked]
    np.testing.assert_allclose(rows_of(base, table, adapter, rows=picked), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("base_name", "shown"),
    [
        ("/home/someone/secret/tiny", "tiny"),
        ("C:\\models\\tiny\\", "tiny"),
        ("org/tiny", "org/tiny"),
        ("tiny\x1b[31m\n", "tiny[31m"),
        ("x" * 200, "x" * 96),
    ],
)
def test_of_a_path_on_the_trainer_s_computer_the_end_is_shown(base, tmp_path, base_name, shown):
    adapter = write_adapter(tmp_path / "a", base, base_model_name_or_path=base_name)
    (facts,) = open_checkpoint(base, adapters=[adapter]).shards.adapters
    assert facts.trained_on == shown
