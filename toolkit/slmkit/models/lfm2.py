"""LFM2: layers of attention among layers of gated short convolutions."""

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
    return blocks.decoder(o, spec, _mixed, blocks.feed_forward)


def read_lfm2(config: Config) -> Spec:
    """Lfm2ForCausalLM: RMS norm on each head of q and k; by default, a tied head."""
    tied = "tie_embedding" if config.has("tie_embedding") else "tie_word_embeddings"
    kernel = config.integer("conv_L_cache", least=2)
    return read_transformer(
        config,
        activation="silu",
        convolution=ShortConvolution(kernel, config.boolean("conv_bias")),
        eps=config.number("norm_eps"),
        feed_forward=_feed_forward(config),
        kinds=_kinds(config),
        names=NAMES,
        qk_norm=True,
        tied=config.boolean(tied, True),
    )


def _kinds(config: Config) -> tuple[str, ...]:
    """By ``layer_types``, or, in the first files, by the numbers of the layers that attend."""
    if config.has("layer_types"):
        return layer_kinds(config, "layer_types", KINDS)
    attending = config.integers("full_attn_idxs")
    layers = range(config.count("num_hidden_layers"))
    return tuple("attention" if layer in attending else "conv" for layer in layers)


def _feed_forward(config: Config) -> int:
    """F: two thirds of what the config says, in whole multiples, where it adjusts itself.

    Source: transformers' ``Lfm2MLP``, in its order of rounding.
    """
    said = config.integer("block_ff_dim" if config.has("block_ff_dim") else "intermediate_size")
    if not config.boolean("block_auto_adjust_ff_dim", True):
        return said
    width = 2 * said // 3
    if config.values.get("block_ffn_dim_multiplier", 1.0) is None:
        return width
    multiple = config.integer("block_multiple_of", 256)
    width = int(config.number("block_ffn_dim_multiplier", 1.0) * width)
    return -(-width // multiple) * multiple


def _mixed(o: Ops[V], spec: Spec, x: V, layer: int) -> V:
    mix = _convolved if spec.kinds[layer] == "conv" else blocks.attention
    return mix(o, spec, x, layer)


def _convolved(o: Ops[V], spec: Spec, x: V, layer: int) -> V:
    """Two gates around a convolution, all three out of one projection. (T, D) -> (T, D)"""
    at, kind = f"model.layers.{layer}.conv", spec.convolution
    if kind is None:
        raise ValueError(f"{spec.model_type} has no convolution")
    widths = (spec.width,) * 3
    before, after, x = o.split(o.linear(x, f"{at}.in_proj", sum(widths), kind.bias), widths)
    found = o.conv(o.mul(before, x), f"{at}.conv", kind.kernel, layer, kind.bias)
    return o.tap(o.linear(o.mul(after, found), f"{at}.out_proj", spec.width, kind.bias), at)
