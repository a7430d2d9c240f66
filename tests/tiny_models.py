"""Tiny random checkpoints: one row per architecture, and per fact in which its models differ."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from slmkit.checkpoint.safetensors import SafetensorsWriter
from slmkit.interpreters.recorder import Weight, record
from slmkit.models.config import Config
from slmkit.models.registry import architecture, read_spec
from slmkit.models.spec import Spec
from slmkit.models.weight_transforms import plus_one, reading_of
from slmkit.planning.plan import Request

SHARED = Path(__file__).resolve().parents[2] / "shared"
STORIES = SHARED / "checkpoints" / "stories260K"

BASE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.5],
    "long_factor": [1.1, 1.5, 2.0, 3.0, 4.0, 4.5],
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": False,
}
MAMBA = {
    "conv_kernel": 4,
    "expand": 2,
    "layer_norm_epsilon": 1e-5,
    "use_bias": False,
    "use_conv_bias": True,
    "tie_word_embeddings": True,
}
GRANITE = {
    "embedding_multiplier": 6.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.4,
    "logits_scaling": 4.0,
}
GRANITE_4 = {
    **GRANITE,
    "model_type": "granitemoehybrid",
    "num_hidden_layers": 3,
    "layer_types": ["mamba", "attention", "mamba"],
    "shared_intermediate_size": 96,
    "num_local_experts": 0,
    "position_embedding_type": "nope",
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "tie_word_embeddings": True,
}
GEMMA = {
    "head_dim": 32,
    "num_key_value_heads": 1,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
}
# One row per architecture, and per fact in which its checkpoints differ.
TINY: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-tied": {"tie_word_embeddings": True},
    "llama-3.2": {"rope_scaling": LLAMA3, "rope_theta": 500000.0, "tie_word_embeddings": True},
    "llama-biases": {"attention_bias": True, "mlp_bias": True},
    "llama-narrow-heads": {"head_dim": 8, "intermediate_size": 100},
    "gemma": {**GEMMA, "model_type": "gemma"},
    "gemma2": {
        **GEMMA,
        "model_type": "gemma2",
        "query_pre_attn_scalar": 24,
        "sliding_window": 16,
        "attn_logit_softcapping": 4.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3": {
        **GEMMA,
        "model_type": "gemma3_text",
        "num_hidden_layers": 3,
        "query_pre_attn_scalar": 24,
        "sliding_window": 16,
        "rope_local_base_freq": 1000.0,
        "rope_theta": 100000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "sliding_window_pattern": 2,
    },
    "gemma3-wide": {
        **GEMMA,
        "model_type": "gemma3_text",
        "head_dim": 64,
        "query_pre_attn_scalar": 64,
        "sliding_window": 16,
        "rope_local_base_freq": 1000.0,
        "sliding_window_pattern": 2,
    },
    "granite": {**GRANITE, "model_type": "granite"},
    "granite-hybrid": GRANITE_4,
    "granite-hybrid-moe": {
        **GRANITE_4,
        "layer_types": ["attention", "mamba", "mamba"],
        "position_embedding_type": "rope",
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "intermediate_size": 32,
        "mamba_d_head": "auto",
        "mamba_proj_bias": True,
        "attention_bias": True,
    },
    "granite-hybrid-attention": {
        **GRANITE_4,
        "layer_types": ["attention", "attention", "attention"],
        "position_embedding_type": "rope",
        "tie_word_embeddings": False,
    },
    "olmoe": {
        "model_type": "olmoe",
        "num_key_value_heads": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "norm_topk_prob": False,
    },
    "qwen2-moe": {**EXPERTS, "model_type": "qwen2_moe", "shared_expert_intermediate_size": 64},
    "qwen3-moe": {
        **EXPERTS,
        "model_type": "qwen3_moe",
        "head_dim": 32,
        "norm_topk_prob": True,
        "mlp_only_layers": [0],
    },
    "granite-moe": {
        **GRANITE,
        "model_type": "granitemoe",
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "tie_word_embeddings": True,
    },
    "lfm2": {
        "model_type": "lfm2",
        "num_hidden_layers": 3,
        "layer_types": ["conv", "full_attention", "conv"],
        "intermediate_size": 150,
        "block_auto_adjust_ff_dim": True,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 0.9,
        "conv_L_cache": 3,
        "conv_bias": False,
        "norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    "lfm2-biases": {
        "model_type": "lfm2",
        "num_hidden_layers": 3,
        "layer_types": ["full_attention", "conv", "full_attention"],
        "block_auto_adjust_ff_dim": False,
        "conv_L_cache": 4,
        "conv_bias": True,
        "norm_eps": 1e-5,
    },
    "mamba": {
        **MAMBA,
        "model_type": "mamba",
        "intermediate_size": 128,
        "time_step_rank": 6,
        "state_size": 8,
    },
    "mamba2": {
        **MAMBA,
        "model_type": "mamba2",
        "num_heads": 8,
        "head_dim": 16,
        "n_groups": 1,
        "state_size": 8,
        "chunk_size": 16,
    },
    "phi3": {"model_type": "phi3", "sliding_window": 16, "pad_token_id": 0},
    "phi3-long": {
        "model_type": "phi3",
        "pad_token_id": 0,
        "original_max_position_embeddings": 64,
        "rope_scaling": LONGROPE,
        "partial_rotary_factor": 0.75,
    },
    "mistral": {"model_type": "mistral", "head_dim": 32},
    "mistral-window": {"model_type": "mistral", "sliding_window": 16},
    "mistral-window-narrow": {"model_type": "mistral", "sliding_window": 16, "head_dim": 8},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2-window": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
}
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_config(architecture: str, **changes: Any) -> dict[str, Any]:
    """config.json of a tiny model."""
    return {**BASE, **TINY[architecture], **changes}


Place = tuple[str, int | None]  # a stored tensor, and a weight's number in it if it holds several


def write_checkpoint(folder: Path, config: dict[str, Any], seed: int = 0) -> Path:
    """A checkpoint of random weights, large enough that every part moves the logits."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    spec = read_spec(Config(config, "config.json"))
    weights = record(spec).weights
    random = np.random.default_rng(seed)
    layout, places = stored_layout(spec, weights, "F32")
    with SafetensorsWriter(folder / "model.safetensors", layout) as writer:
        for name, weight in weights.items():
            values = random.standard_normal(weight.shape, dtype=np.float32)
            values = filled(spec, weight, values).reshape(weight.stored or weight.shape)
            tensor, number = places[name]
            writer.put(tensor, values if number is None else values[None], number or 0)
    write_tokenizer(folder)
    return folder


def stored_layout(
    spec: Spec, weights: Mapping[str, Weight], dtype: str
) -> tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, Place]]:
    """The tensors of a checkpoint, and where in them each weight lies."""
    places = {name: _place(name, architecture(spec).stacked) for name in weights}
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, weight in weights.items():
        tensor, number = places[name]
        several = () if number is None else (number + 1,)  # the last one's number decides
        layout[tensor] = (dtype, (*several, *(weight.stored or weight.shape)))
    return layout, places


def filled(spec: Spec, weight: Weight, values: np.ndarray) -> np.ndarray:
    """Normal numbers turned to what a weight of this kind may hold."""
    if weight.name.endswith("_log"):  # decays from slow to fast
        return np.log(1 + 3 * np.abs(values))
    if weight.tensor.endswith((".dt_bias", ".dt_proj.bias")):  # steps around 0.01, as real ones
        step = np.float32(0.01) * np.exp(values)  # begin: states that live for many tokens
        return step + np.log(-np.expm1(-step))  # the inverse of softplus
    if weight.name.endswith(".dt_proj"):
        return values / np.sqrt(np.float32(3 * weight.shape[-1]))
    if weight.name.endswith(".D"):
        return 1 + np.float32(0.2) * values
    if weight.kind == "norm":
        less = reading_of(weight.tensor, architecture(spec).readings) is plus_one
        return (0 if less else 1) + np.float32(0.2) * values
    if weight.kind == "conv":
        return values * np.float32(0.7)
    if weight.kind in ("table", "bias"):  # small, so that a norm's eps counts
        return values * np.float32(0.1)
    return values * np.float32(1.5 / np.sqrt(weight.shape[-1]))


def _place(name: str, stacked: tuple[str, ...]) -> Place:
    """The stored tensor of a weight, and its number in it, where a tensor holds several."""
    found = re.fullmatch(r"(.+)\.(\d+)\.weight", name)
    if found and f"{found[1]}.weight".endswith(stacked):
        return f"{found[1]}.weight", int(found[2])
    return name, None


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer of 300 tokens, with a chat template."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        show_progress=False,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    library.train_from_iterator(["the quick brown fox turns off the kitchen lights"], trainer)
    library.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def ort_request(model: Path, recipe: str, out: Path, **more: Any) -> Request:
    """A build of the fastest artifact alone, where a test asks nothing of the others."""
    return Request(model, "android", recipe, out, artifacts=("ort",), **more)
