"""Tiny random checkpoints: one row per architecture, and per fact in which its models differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from slmkit.checkpoint.safetensors import SafetensorsWriter
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from slmkit.plan import Request
from slmkit.record import record

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
# One row per architecture, and per fact in which its checkpoints differ.
TINY: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-tied": {"tie_word_embeddings": True},
    "llama-3.2": {"rope_scaling": LLAMA3, "rope_theta": 500000.0, "tie_word_embeddings": True},
    "llama-biases": {"attention_bias": True, "mlp_bias": True},
    "llama-narrow-heads": {"head_dim": 8, "intermediate_size": 100},
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


def write_checkpoint(folder: Path, config: dict[str, Any], seed: int = 0) -> Path:
    """A checkpoint of random weights, large enough that every part moves the logits."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = record(read_spec(Config(config, "config.json"))).weights
    random = np.random.default_rng(seed)
    layout = {name: ("F32", weight.shape) for name, weight in weights.items()}
    with SafetensorsWriter(folder / "model.safetensors", layout) as writer:
        for name, weight in weights.items():
            values = random.standard_normal(weight.shape, dtype=np.float32)
            if weight.kind == "norm":
                values = 1 + np.float32(0.2) * values
            elif weight.kind in ("table", "bias"):
                values *= np.float32(0.1)  # small, so that a norm's eps counts
            else:
                values *= np.float32(1.5 / np.sqrt(weight.shape[-1]))
            writer.put(name, values)
    write_tokenizer(folder)
    return folder


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
