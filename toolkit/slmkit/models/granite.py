"""Granite: llama's form with four multipliers."""

from __future__ import annotations

from typing import Any

from slmkit.models.config import Config
from slmkit.models.spec import Spec
from slmkit.models.transformer_config import read_transformer


def read_granite(config: Config) -> Spec:
    """GraniteForCausalLM."""
    bias = config.boolean("attention_bias", False)
    mlp_bias = config.boolean("mlp_bias", False)
    return read_transformer(
        config, qkv_bias=bias, output_bias=bias, mlp_bias=mlp_bias, **multipliers(config)
    )


def multipliers(config: Config) -> dict[str, Any]:
    """Of embeddings, attention scores, what a block adds, and logits (which are divided)."""
    return {
        "embedding_scale": config.number("embedding_multiplier"),
        "attention_scale": config.number("attention_multiplier"),
        "residual_scale": config.number("residual_multiplier"),
        "logits_scale": 1 / config.number("logits_scaling"),
    }
