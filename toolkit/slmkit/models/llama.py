"""Llama, Mistral, Qwen2 and Qwen3: pre-norm decoders of attention and gated mlps."""

from __future__ import annotations

from typing import Any

from slmkit.models import blocks
from slmkit.models.config import Config
from slmkit.models.spec import Spec
from slmkit.models.transformer_config import Windows, layer_windows, no_window, read_transformer
from slmkit.ops import Ops, V

MISTRAL_WINDOW = 4096  # transformers 4 and 5, where the key is missing


def forward(o: Ops[V], spec: Spec) -> V:
    """Token ids to logits; the forward pass of most architectures. -> (T, V)"""
    return blocks.decoder(o, spec, blocks.attention, blocks.feed_forward)


def read_llama(config: Config) -> Spec:
    """LlamaForCausalLM: biases by ``attention_bias`` and ``mlp_bias``."""
    bias = config.boolean("attention_bias", False)
    mlp_bias = config.boolean("mlp_bias", False)
    return read_transformer(config, qkv_bias=bias, output_bias=bias, mlp_bias=mlp_bias)


def read_mistral(config: Config) -> Spec:
    """MistralForCausalLM: no biases; one ``sliding_window`` for all layers, null for none.

    With ``layer_types`` (Ministral), only layers of type sliding_attention have it.
    """
    has_window = config.values.get("sliding_window", MISTRAL_WINDOW) is not None
    window = config.integer("sliding_window", MISTRAL_WINDOW) if has_window else None
    if window is not None and config.has("layer_types"):
        return read_transformer(config, layer_windows(config, window))
    return read_transformer(config, lambda layer: window)


def read_qwen2(config: Config, **more: Any) -> Spec:
    """Qwen2ForCausalLM: q, k and v have biases."""
    return read_transformer(config, _qwen_window(config), qkv_bias=True, **more)


def read_qwen3(config: Config, **more: Any) -> Spec:
    """Qwen3ForCausalLM: RMS norm on each head of q and k."""
    bias = config.boolean("attention_bias", False)
    return read_transformer(
        config, _qwen_window(config), qkv_bias=bias, output_bias=bias, qk_norm=True, **more
    )


def _qwen_window(config: Config) -> Windows:
    """With ``use_sliding_window``: a window in layers from ``max_window_layers`` on.

    transformers 5 writes the result as ``layer_types``, which then takes precedence.
    """
    if not config.boolean("use_sliding_window", False):
        return no_window
    window = config.integer("sliding_window")
    if config.has("layer_types"):
        return layer_windows(config, window)
    first = config.integer("max_window_layers", least=0)
    return lambda layer: window if layer >= first else None
