"""The llama family: Llama, Mistral, Qwen2, Qwen3 and everything of their form."""

from __future__ import annotations

from collections.abc import Callable

from slmkit.errors import CheckpointError
from slmkit.models import blocks
from slmkit.models.config import Config
from slmkit.models.rope import read_rope
from slmkit.models.spec import Spec
from slmkit.ops import Ops, V

Windows = Callable[[int], int | None]  # layer -> sliding window
EMBEDDING = "model.embed_tokens"


def forward(o: Ops[V], spec: Spec) -> V:
    """Token ids to logits. -> (T, V)"""
    x = o.tap(o.embed(EMBEDDING, spec.vocabulary, spec.width), EMBEDDING)
    normed = o.rms_norm(x, "model.layers.0.input_layernorm", spec.eps)
    for layer in range(spec.layers):
        middle = f"model.layers.{layer}.post_attention_layernorm"
        last = layer + 1 == spec.layers
        after = "model.norm" if last else f"model.layers.{layer + 1}.input_layernorm"
        x, normed = o.add_norm(x, blocks.attention(o, spec, normed, layer), middle, spec.eps)
        x, normed = o.add_norm(x, blocks.gated_mlp(o, spec, normed, layer), after, spec.eps)
        o.tap(x, f"model.layers.{layer}")
    head = EMBEDDING if spec.tied else "lm_head"
    return o.linear(o.tap(normed, "model.norm"), head, spec.vocabulary)


def read_llama(config: Config) -> Spec:
    """LlamaForCausalLM: biases by ``attention_bias`` and ``mlp_bias``."""
    bias = config.boolean("attention_bias", False)
    return _spec(
        config, qkv_bias=bias, output_bias=bias, mlp_bias=config.boolean("mlp_bias", False)
    )


def read_mistral(config: Config) -> Spec:
    """MistralForCausalLM: no biases; ``sliding_window`` holds for every layer."""
    window = config.integer("sliding_window") if config.has("sliding_window") else None
    return _spec(config, windows=lambda layer: window)


def read_qwen2(config: Config) -> Spec:
    """Qwen2ForCausalLM: q, k and v have biases."""
    return _spec(config, qkv_bias=True, windows=_qwen_window(config))


def read_qwen3(config: Config) -> Spec:
    """Qwen3ForCausalLM: RMS norm on each head of q and k."""
    bias = config.boolean("attention_bias", False)
    return _spec(
        config, qkv_bias=bias, output_bias=bias, qk_norm=True, windows=_qwen_window(config)
    )


def _qwen_window(config: Config) -> Windows:
    """Qwen's rule: layers from ``max_window_layers`` on are windowed, if windows are in use.

    transformers 5 writes the outcome into the file as ``layer_types``, which then decides.
    """
    if not config.boolean("use_sliding_window", False):
        return no_window
    window = config.integer("sliding_window")
    if config.has("layer_types"):
        kinds = _layer_kinds(config)
        return lambda layer: window if kinds[layer] == "sliding_attention" else None
    first = config.integer("max_window_layers", least=0)
    return lambda layer: window if layer >= first else None


def _layer_kinds(config: Config) -> list[str]:
    kinds = config.strings("layer_types")
    known = {"full_attention", "sliding_attention"}
    if not set(kinds) <= known or len(kinds) != config.integer("num_hidden_layers"):
        raise CheckpointError(
            f"{config.where}: layer_types is not a list of {' or '.join(sorted(known))}, "
            "one per layer",
            "compare the file with the one that the model's author published",
        )
    return kinds


def no_window(layer: int) -> int | None:
    """Every token sees all before it."""
    return None


def _spec(
    config: Config,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    windows: Windows = no_window,
) -> Spec:
    config.expect("hidden_act", "silu", default="silu")
    layers, width = config.integer("num_hidden_layers"), config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise CheckpointError(
            f"{config.where}: num_attention_heads {heads} is not a multiple of "
            f"num_key_value_heads {kv_heads}",
            "compare the file with the one that the model's author published",
        )
    head_width = _head_width(config, width, heads)
    return Spec(
        model_type=config.string("model_type"),
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        feed_forward=config.integer("intermediate_size"),
        vocabulary=config.integer("vocab_size"),
        eps=config.number("rms_norm_eps"),
        rope=read_rope(config, head_width),
        tied=config.boolean("tie_word_embeddings"),
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
        qk_norm=qk_norm,
        windows=tuple(windows(layer) for layer in range(layers)),
        trained_context=config.integer("max_position_embeddings"),
    )


def _head_width(config: Config, width: int, heads: int) -> int:
    """``head_dim``, or by the format's own default hidden_size / num_attention_heads."""
    if config.has("head_dim"):
        return config.integer("head_dim")
    if width % heads:
        raise CheckpointError(
            f"{config.where}: hidden_size {width} is not a multiple of num_attention_heads {heads},"
            " and head_dim is missing",
            "add head_dim as the model's author published it",
        )
    return width // heads
