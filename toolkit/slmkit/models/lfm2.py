"""LFM2: gated short convolutions in most layers, attention in the others."""

from __future__ import annotations

from slmkit.models import blocks
from slmkit.models.config import Config
from slmkit.models.spec import Names, ShortConvolution, Spec
from slmkit.models.transformer_config import layer_kinds, read_transformer
from slmkit.ops import Ops, V

NAMES = Names(
    first_norm="operator_norm",
    second_norm="ffn_norm",
    last_norm="model.embedding_norm",
    q_norm="q_layernorm",
    k_norm="k_layernorm",
    attention_output="out_proj",
    mlp="feed_forward",
    gate_up=("w1", "w3"),
    down="w2",
)
KINDS = {"full_attention": "attention", "conv": "conv"}


def forward(o: Ops[V], spec: Spec) -> V:
    """Token ids to logits. -> (T, V)"""
    return blocks.decoder(o, spec, _mixer, blocks.feed_forward)


def read_lfm2(config: Config) -> Spec:
    """Lfm2ForCausalLM: RMS norm on each head of q and k; lm_head tied by default."""
    tied = "tie_embedding" if config.has("tie_embedding") else "tie_word_embeddings"
    kernel = config.integer("conv_L_cache", least=2)
    return read_transformer(
        config,
        activation="silu",
        convolution=ShortConvolution(kernel, config.boolean("conv_bias")),
        eps=config.epsilon("norm_eps"),
        feed_forward=_feed_forward(config),
        kinds=_kinds(config),
        names=NAMES,
        qk_norm=True,
        tied=config.boolean(tied, True),
    )


def _kinds(config: Config) -> tuple[str, ...]:
    """Kind of each layer: ``layer_types``, or ``full_attn_idxs`` of LFM2's first files."""
    if config.has("layer_types"):
        return layer_kinds(config, "layer_types", KINDS)
    attending = config.integers("full_attn_idxs")
    layers = range(config.count("num_hidden_layers"))
    return tuple("attention" if layer in attending else "conv" for layer in layers)


def _feed_forward(config: Config) -> int:
    """F: the configured width, or, if ``block_auto_adjust_ff_dim``, an adjusted one.

    Adjusted: two thirds of it times a multiplier, rounded up to ``block_multiple_of``.
    Source: transformers' ``Lfm2MLP``, in its order of rounding.
    """
    key = "block_ff_dim" if config.has("block_ff_dim") else "intermediate_size"
    configured = config.integer(key)
    if not config.boolean("block_auto_adjust_ff_dim", True):
        return configured
    width = 2 * configured // 3
    if config.values.get("block_ffn_dim_multiplier", 1.0) is None:
        return width
    multiple = config.integer("block_multiple_of", 256)
    width = int(config.number("block_ffn_dim_multiplier", 1.0) * width)
    return -(-width // multiple) * multiple


def _mixer(o: Ops[V], spec: Spec, x: V, layer: int) -> V:
    sublayer = _short_convolution if spec.kinds[layer] == "conv" else blocks.attention
    return sublayer(o, spec, x, layer)


def _short_convolution(o: Ops[V], spec: Spec, x: V, layer: int) -> V:
    """A convolution between two gates; one projection makes x and both gates. (T, D) -> (T, D)"""
    at, kind = f"model.layers.{layer}.conv", spec.convolution
    if kind is None:
        raise ValueError(f"{spec.model_type} has no convolution")
    widths = (spec.width,) * 3
    before, after, x = o.split(o.linear(x, f"{at}.in_proj", sum(widths), kind.bias), widths)
    x = o.conv(o.mul(before, x), f"{at}.conv", kind.kernel, layer, kind.bias)
    return o.tap(o.linear(o.gated_product(after, x), f"{at}.out_proj", spec.width, kind.bias), at)
