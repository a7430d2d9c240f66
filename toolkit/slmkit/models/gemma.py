"""Gemma: scaled embeddings, gelu, norms whose stored weight is one less; 2 and 3: more norms."""

from __future__ import annotations

from typing import Any

from slmkit.models import blocks
from slmkit.models.config import Config
from slmkit.models.rope import rope_of
from slmkit.models.spec import Spec
from slmkit.models.transformer_config import (
    Windows,
    activation,
    layer_windows,
    no_window,
    read_head_width,
    read_transformer,
)
from slmkit.models.weight_transforms import plus_one
from slmkit.ops import Ops, Rope, V

TRANSFORMS = {"norm.weight": plus_one}  # transformers' GemmaRMSNorm: x * (1 + weight)
GLOBAL_EVERY = 6  # Gemma 3: five local layers, then one that sees everything


def forward(o: Ops[V], spec: Spec) -> V:
    """Gemma 2 and 3: both halves of a layer have a norm before and one after. -> (T, V)"""
    x = blocks.embedded(o, spec)
    normed = o.rms_norm(x, "model.layers.0.input_layernorm", spec.eps)
    for layer in range(spec.layers):
        at = f"model.layers.{layer}"
        mixed = blocks.attention(o, spec, normed, layer)
        mixed = o.rms_norm(mixed, f"{at}.post_attention_layernorm", spec.eps)
        x, normed = o.add_norm(x, mixed, f"{at}.pre_feedforward_layernorm", spec.eps)
        fed = blocks.feed_forward(o, spec, normed, layer)
        fed = o.rms_norm(fed, f"{at}.post_feedforward_layernorm", spec.eps)
        x, normed = o.add_norm(x, fed, blocks.next_norm(spec, layer), spec.eps)
        o.tap(x, at)
    return blocks.head(o, spec, normed)


def read_gemma(config: Config) -> Spec:
    """GemmaForCausalLM: the arithmetic of llama."""
    return _read(config)


def read_gemma2(config: Config) -> Spec:
    """Gemma2ForCausalLM: every second layer is local, beginning with the first; soft caps."""
    window = config.integer("sliding_window")
    alternate: Windows = lambda layer: None if layer % 2 else window  # noqa: E731
    windows = layer_windows(config, window) if config.has("layer_types") else alternate
    return _read(config, windows, **_scale(config), **_caps(config))


def read_gemma3(config: Config) -> Spec:
    """Gemma3ForCausalLM (text): q/k norm, local layers with a rope of their own."""
    window = config.integer("sliding_window")
    every = config.integer("sliding_window_pattern", GLOBAL_EVERY)
    by_pattern: Windows = lambda layer: window if (layer + 1) % every else None  # noqa: E731
    windows = layer_windows(config, window) if config.has("layer_types") else by_pattern
    config.expect("use_bidirectional_attention", False, default=False)
    width, parameters = read_head_width(config), config.section("rope_parameters")
    wide, local = _ropes_by_kind(parameters, width) if parameters else _ropes_apart(config, width)
    more = {"qk_norm": True, "rope": wide, "local_rope": local}
    return _read(config, windows, **_scale(config), **_caps(config), **more)


def _read(config: Config, windows: Windows = no_window, **more: Any) -> Spec:
    bias = config.boolean("attention_bias", False)
    return read_transformer(
        config,
        windows,
        activation=_activation(config),
        tied=config.boolean("tie_word_embeddings", True),
        qkv_bias=bias,
        output_bias=bias,
        embedding_scale=config.integer("hidden_size") ** 0.5,
        **more,
    )


def _activation(config: Config) -> str:
    """Gemma's first files say gelu; the models were trained with its tanh form."""
    key = "hidden_activation" if config.has("hidden_activation") else "hidden_act"
    return "gelu_tanh" if config.values.get(key, "gelu") == "gelu" else activation(config, key)


def _scale(config: Config) -> dict[str, Any]:
    return {"attention_scale": config.number("query_pre_attn_scalar") ** -0.5}


def _caps(config: Config) -> dict[str, Any]:
    keys = {"attention_cap": "attn_logit_softcapping", "logits_cap": "final_logit_softcapping"}
    return {fact: config.number(key) if config.has(key) else None for fact, key in keys.items()}


def _ropes_by_kind(parameters: Config, width: int) -> tuple[Rope, Rope]:
    """As transformers 5 writes them: one object for each kind of layer."""
    kinds = [parameters.required(kind) for kind in ("full_attention", "sliding_attention")]
    wide, local = (rope_of(kind, kind, kind, width) for kind in kinds)
    return wide, local


def _ropes_apart(config: Config, width: int) -> tuple[Rope, Rope]:
    """As Gemma 3's own files have them."""
    local = Config({"rope_theta": config.number("rope_local_base_freq")}, config.where)
    wide = rope_of(config, config, config.section("rope_scaling"), width)
    return wide, rope_of(local, local, None, width)
