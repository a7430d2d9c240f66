"""Granite 3: llama with factors on embeddings, attention scores, residuals and logits."""

from __future__ import annotations

from typing import Any

from slmkit.models.config import Config
from slmkit.models.spec import Spec
from slmkit.models.transformer_config import read_transformer


def read_granite(config: Config) -> Spec:
    """GraniteForCausalLM: biases by ``attention_bias`` and ``mlp_bias``."""
    bias = config.boolean("attention_bias", False)
    mlp_bias = config.boolean("mlp_bias", False)
    return read_transformer(
        config, qkv_bias=bias, output_bias=bias, mlp_bias=mlp_bias, **multipliers(config)
    )


def multipliers(config: Config) -> dict[str, Any]:
    """The spec's scale fields. ``logits_scaling`` is a divisor, the others are factors."""
    return {
        "embedding_scale": config.number("embedding_multiplier"),
        "attention_scale": config.number("attention_multiplier"),
        "residual_scale": config.number("residual_multiplier"),
        "logits_scale": 1 / config.number("logits_scaling"),
    }
