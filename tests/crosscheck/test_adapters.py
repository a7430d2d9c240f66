"""PEFT is the outside truth: it makes the adapters, and merges them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from slmkit.checkpoint.folder import open_checkpoint
from slmkit.errors import CheckpointError
from slmkit.interpreters import reference
from tiny_models import tiny_config
from tiny_tokenizers import write_tokenizer

torch = pytest.importorskip("torch", reason="needs the extra crosscheck")
transformers = pytest.importorskip("transformers", reason="needs the extra crosscheck")
peft = pytest.importorskip("peft", reason="needs the extra crosscheck")

pytestmark = pytest.mark.crosscheck
# Of the largest number of a weight: products of rank 16 are added up in another order.
RELATIVE = 1e-6
ATTENTION, ALL = ["q_proj", "v_proj"], "all-linear"
UNTIED = {"tie_word_embeddings": False}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("llama", {}, {"target_modules": ATTENTION}),
    "all-linear": ("llama", {}, {"target_modules": ALL, "r": 16, "lora_alpha": 32}),
    "rslora": ("llama", {}, {"target_modules": ATTENTION, "use_rslora": True}),
    "dora": ("llama", {}, {"target_modules": ALL, "use_dora": True}),
    "dora-rslora": ("qwen2", {}, {"target_modules": ALL, "use_dora": True, "use_rslora": True}),
    "patterns": (
        "llama",
        {},
        {
            "target_modules": ALL,
            "rank_pattern": {r"layers\.1\..*q_proj": 3, "down_proj": 5},
            "alpha_pattern": {"down_proj": 40, r"0.mlp.up_proj": 7},
        },
    ),
    "regular-expression": ("llama", {}, {"target_modules": r".*\.layers\.1\..*_proj"}),
    "one-layer": ("llama", {}, {"target_modules": ATTENTION, "layers_to_transform": [1]}),
    "layers-pattern": (
        "llama",
        {},
        {"target_modules": ATTENTION, "layers_to_transform": 0, "layers_pattern": "layers"},
    ),
    "excluded": ("llama", {}, {"target_modules": ALL, "exclude_modules": ["o_proj"]}),
    "embedding": ("llama", {}, {"target_modules": ["embed_tokens", "q_proj"]}),
    "head": ("llama", {}, {"target_modules": ["lm_head", "q_proj"]}),
    "saved": ("llama", {}, {"target_modules": ATTENTION, "modules_to_save": ["lm_head", "norm"]}),
    "saved-table": (
        "llama",
        {},
        {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens"]},
    ),
    "conv1d-option": ("llama", {}, {"target_modules": ATTENTION, "fan_in_fan_out": True}),
    "biases": ("llama-biases", {}, {"target_modules": ATTENTION, "bias": "all"}),
    "biases-of-lora": ("llama-biases", {}, {"target_modules": ATTENTION, "bias": "lora_only"}),
    "orthogonal": ("llama", {}, {"target_modules": ATTENTION, "init_lora_weights": "orthogonal"}),
    "qwen2": ("qwen2", {}, {"target_modules": ALL}),
    "gemma": ("gemma", {}, {"target_modules": ALL}),
    "gemma3": ("gemma3", UNTIED, {"target_modules": ["embed_tokens", "q_proj", "o_proj"]}),
    "gemma-norms": (
        "gemma2",
        {},
        {"target_modules": ATTENTION, "modules_to_save": ["input_layernorm"]},
    ),
    "phi3": ("phi3", {}, {"target_modules": ALL}),
    "granite-hybrid": ("granite-hybrid", {}, {"target_modules": ["in_proj", "out_proj"]}),
    "lfm2": ("lfm2", {}, {"target_modules": ALL}),
    "shared-expert": ("qwen2-moe", {}, {"target_modules": ["q_proj", "gate_proj", "down_proj"]}),
}


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def trained(folder, architecture, changes, settings):
    """A tiny model and an adapter of it, both with random weights: both folders, and the merged
    model."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**tiny_config(architecture, **changes))
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder / "base")
    write_tokenizer(folder / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    adapted.save_pretrained(folder / "adapter")
    return adapted.merge_and_unload()


@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_that_peft_merges(tmp_path, case):
    merged = trained(tmp_path, *CASES[case])
    merged.save_pretrained(tmp_path / "merged")
    write_tokenizer(tmp_path / "merged")
    base = open_checkpoint(tmp_path / "base").shards
    ours = open_checkpoint(tmp_path / "base", adapters=[tmp_path / "adapter"])
    theirs, changed = open_checkpoint(tmp_path / "merged").shards, 0
    for tensor, weight in ours.model.weights.items():
        if len(weight.shape) == 2:
            expected = theirs.rows(tensor, slice(None))
            blocks = [block for _, block in ours.shards.blocks(tensor)]
            found, before = np.concatenate(blocks), base.rows(tensor, slice(None))
            picked = np.array([len(found) - 1, 0, len(found) // 2])
            np.testing.assert_allclose(ours.shards.rows(tensor, picked), found[picked], 1e-5, 1e-6)
        else:
            expected, found = theirs.vector(tensor), ours.shards.vector(tensor)
            before = base.vector(tensor)
        assert np.abs(found - expected).max() <= RELATIVE * np.abs(expected).max(), tensor
        changed += not np.array_equal(found, before)
    assert changed
    ids = np.arange(3, 40)
    with torch.no_grad():
        logits = merged(torch.tensor([ids.tolist()])).logits[0].numpy()
    got = reference.logits(ours.shards, ours.spec, [ids])[0]
    assert np.abs(got - logits).max() < 1e-4 * np.abs(logits).max()


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "pissa": ("llama", {"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    "olora": ("llama", {"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
    "bias-of-b": ("llama-biases", {"lora_bias": True}, "lora_bias is True"),
    "tokens": ("llama", {"trainable_token_indices": [3, 4]}, "trainable_token_indices"),
    "tied-table": ("qwen2", {"target_modules": ["embed_tokens"]}, "tie_word_embeddings is true"),
    "tied-saved": ("qwen2", {"modules_to_save": ["lm_head"]}, "tie_word_embeddings is true"),
    "dora-of-table": (
        "llama",
        {"target_modules": ["embed_tokens"], "use_dora": True},
        "DoRA of the",
    ),
    "experts": (
        "qwen2-moe",
        {"target_parameters": ["mlp.experts.gate_up_proj"]},
        "target_parameters",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_computed_otherwise_is_refused_by_name(tmp_path, case):
    architecture, settings, said = REFUSED[case]
    trained(tmp_path, architecture, {}, {"target_modules": ATTENTION, **settings})
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(tmp_path / "base", adapters=[tmp_path / "adapter"])
