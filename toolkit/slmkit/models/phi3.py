"""Phi-3, Phi-3.5 and Phi-4-mini: llama's form, with q, k, v and gate, up stored as one matrix."""

from __future__ import annotations

from slmkit.models.config import Config
from slmkit.models.rope import read_long_rope
from slmkit.models.spec import Names, Spec
from slmkit.models.transformer_config import no_window, read_head_width, read_transformer

NAMES = Names(qkv=("qkv_proj",), gate_up=("gate_up_proj",))


def read_phi3(config: Config) -> Spec:
    """Phi3ForCausalLM: longrope, partial rotary and one window for all layers, if it says so."""
    window = config.integer("sliding_window") if config.has("sliding_window") else None
    slides = window is not None and window < config.integer("max_position_embeddings")
    return read_transformer(
        config,
        (lambda layer: window) if slides else no_window,
        tied=config.boolean("tie_word_embeddings", False),
        names=NAMES,
        long_rope=read_long_rope(config, read_head_width(config)),
    )
