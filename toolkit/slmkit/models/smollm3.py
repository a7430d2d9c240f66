"""SmolLM3: llama without rope in every fourth layer."""

from __future__ import annotations

from collections.abc import Collection

from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.models.spec import Spec
from slmkit.models.transformer_config import (
    COMPARE,
    Windows,
    layer_windows,
    no_window,
    read_transformer,
)

INTERVAL = 4  # layers 3, 7, 11, ... have no rope; transformers' default


def read_smollm3(config: Config) -> Spec:
    """SmolLM3ForCausalLM: the forward pass is llama's; lm_head tied by default."""
    nope_layers, bias = _nope_layers(config), config.boolean("attention_bias", False)
    return read_transformer(
        config,
        _windows(config, nope_layers),
        tied=config.boolean("tie_word_embeddings", True),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=config.boolean("mlp_bias", False),
        nope_layers=nope_layers,
    )


def _nope_layers(config: Config) -> tuple[int, ...]:
    """Layers of a 0 in ``no_rope_layers``, else the last of every ``no_rope_layer_interval``."""
    layers = range(config.count("num_hidden_layers"))
    if not config.has("no_rope_layers"):
        interval = config.integer("no_rope_layer_interval", INTERVAL)
        return tuple(layer for layer in layers if (layer + 1) % interval == 0)
    rotary = config.integers("no_rope_layers")
    if len(rotary) < len(layers):
        raise CheckpointError(
            f"{config.where}: no_rope_layers has {len(rotary)} entries, the model {len(layers)} "
            "layers",
            COMPARE,
        )
    return tuple(layer for layer in layers if not rotary[layer])


def _windows(config: Config, nope_layers: Collection[int]) -> Windows:
    """By ``layer_types``; else, with ``use_sliding_window``, a window in layers without rope."""
    if config.has("layer_types"):
        windowed = "sliding_attention" in config.strings("layer_types")
        return layer_windows(config, config.integer("sliding_window")) if windowed else no_window
    if not config.boolean("use_sliding_window", False) or not config.has("sliding_window"):
        return no_window
    window = config.integer("sliding_window")
    return lambda layer: window if layer in nope_layers else None
