"""Gemma 1 to 3: scaled embeddings, gelu, (1 + weight) norms; in 2 and 3 also post-norms."""

from __future__ import annotations

from typing import Any

from slmkit.models import blocks
from slmkit.models.config import Config
from slmkit.models.rope import rope_of
from slmkit.models.rope_facts import THETA, joined, rope_facts
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
LOCAL_THETA = "rope_local_base_freq"
GLOBAL_EVERY = 6  # Gemma 3: five layers with a sliding window, then one without


def forward(o: Ops[V], spec: Spec) -> V:
    """Gemma 2 and 3: a norm before and after each sublayer. Token ids to logits. -> (T, V)"""
    x = blocks.embedding(o, spec)
    normed = o.rms_norm(x, "model.layers.0.input_layernorm", spec.stream_eps)
    for layer in range(spec.layers):
        at = f"model.layers.{layer}"
        update = blocks.attention(o, spec, normed, layer)
        update = o.post_norm(update, f"{at}.post_attention_layernorm", spec.eps)
        x, normed = o.add_norm(x, update, f"{at}.pre_feedforward_layernorm", spec.stream_eps)
        update = blocks.feed_forward(o, spec, normed, layer)
        update = o.post_norm(update, f"{at}.post_feedforward_layernorm", spec.eps)
        x, normed = o.add_norm(x, update, blocks.next_norm(spec, layer), spec.stream_eps)
        o.tap(x, at)
    return blocks.head(o, spec, normed)


def read_gemma(config: Config) -> Spec:
    """GemmaForCausalLM: the forward pass is llama's."""
    return _read(config)


def read_gemma2(config: Config) -> Spec:
    """Gemma2ForCausalLM: soft caps; a sliding window in layers 0, 2, 4, ... by default."""
    window = config.integer("sliding_window")
    alternate: Windows = lambda layer: None if layer % 2 else window  # noqa: E731
    windows = layer_windows(config, window) if config.has("layer_types") else alternate
    return _read(config, windows, **_scale(config), **_caps(config, 50.0, 30.0))


def read_gemma3(config: Config) -> Spec:
    """Gemma3ForCausalLM (text): q/k norm; layers with a sliding window have a rope of their own."""
    window = config.integer("sliding_window")
    every = config.integer("sliding_window_pattern", GLOBAL_EVERY)
    by_pattern: Windows = lambda layer: window if (layer + 1) % every else None  # noqa: E731
    windows = layer_windows(config, window) if config.has("layer_types") else by_pattern
    config.expect("use_bidirectional_attention", False, default=False)
    width, parameters = read_head_width(config), config.section("rope_parameters")
    ropes = _nested_ropes(config, parameters, width) if parameters else _flat_ropes(config, width)
    more = {"qk_norm": True, "rope": ropes[0], "local_rope": ropes[1]}
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
    """gelu_tanh for "gelu" too: Gemma's first files name it so, trained with the tanh form."""
    key = "hidden_activation" if config.has("hidden_activation") else "hidden_act"
    return "gelu_tanh" if config.values.get(key, "gelu") == "gelu" else activation(config, key)


def _scale(config: Config) -> dict[str, Any]:
    return {"attention_scale": config.number("query_pre_attn_scalar") ** -0.5}


def _caps(
    config: Config, attention: float | None = None, logits: float | None = None
) -> dict[str, Any]:
    """The soft caps; null is none. ``attention``, ``logits``: transformers' for missing keys."""
    found = {}
    for fact, key, default in (
        ("attention_cap", "attn_logit_softcapping", attention),
        ("logits_cap", "final_logit_softcapping", logits),
    ):
        found[fact] = config.number(key) if config.has(key) else config.values.get(key, default)
    return found


def _nested_ropes(config: Config, parameters: Config, width: int) -> tuple[Rope, Rope]:
    """Global and local rope from transformers 5's form: an object for each kind of layer.

    A ``rope_scaling`` beside it is the global rope's, as in transformers 4 and 5.
    """
    kinds = {"full_attention": THETA, "sliding_attention": LOCAL_THETA}
    sections = {kind: parameters.required_section(kind) for kind in kinds}
    thetas = [joined(config, sections[kind], THETA, outer) for kind, outer in kinds.items()]
    whole, local = (
        Config({**section.values, THETA: theta}, section.where)
        for section, theta in zip(sections.values(), thetas, strict=True)
    )
    scaling = config.section("rope_scaling")
    if scaling is not None:
        whole = Config({**whole.values, **scaling.values}, whole.where)
    return rope_of(config, whole, width), rope_of(config, local, width)


def _flat_ropes(config: Config, width: int) -> tuple[Rope, Rope]:
    """Global and local rope from the keys of Gemma 3's published files."""
    local = Config({THETA: config.number(LOCAL_THETA)}, config.where)
    return rope_of(config, rope_facts(config), width), rope_of(config, local, width)
