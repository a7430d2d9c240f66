"""Phi-3, Phi-3.5 and Phi-4-mini: llama with fused q/k/v and gate/up weights, and longrope."""

from __future__ import annotations

from slmkit.models.config import Config
from slmkit.models.rope import read_long_rope
from slmkit.models.spec import Names, Spec
from slmkit.models.transformer_config import no_window, read_head_width, read_transformer

NAMES = Names(qkv=("qkv_proj",), gate_up=("gate_up_proj",))


def read_phi3(config: Config) -> Spec:
    """Phi3ForCausalLM: optional longrope, partial rotary, and one window for all layers."""
    window = config.integer("sliding_window") if config.has("sliding_window") else None
    windowed = window is not None and window < config.integer("max_position_embeddings")
    return read_transformer(
        config,
        (lambda layer: window) if windowed else no_window,
        tied=config.boolean("tie_word_embeddings", False),
        names=NAMES,
        long_rope=read_long_rope(config, read_head_width(config)),
    )
