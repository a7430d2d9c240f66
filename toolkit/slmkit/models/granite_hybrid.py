"""Granite 4.0: Mamba-2 and attention layers; optional experts beside a shared mlp."""

from __future__ import annotations

from slmkit.errors import CheckpointError
from slmkit.models import blocks, mamba
from slmkit.models.config import Config
from slmkit.models.granite import multipliers
from slmkit.models.moe import read_moe
from slmkit.models.rope import read_rope
from slmkit.models.spec import MoE, Names, Spec, StateSpace
from slmkit.models.transformer_config import COMPARE, layer_kinds, read_head_width, read_transformer
from slmkit.ops import NO_ROPE, Ops, Rope, V

NAMES = Names(mlp="shared_mlp", gate_up=("input_linear",), down="output_linear")
KINDS = {  # the spellings of transformers 4 and 5
    "attention": "attention",
    "full_attention": "attention",
    "mamba": "scan",
    "linear_attention": "scan",
}


def forward(o: Ops[V], spec: Spec) -> V:
    """Token ids to logits. -> (T, V)"""
    return blocks.decoder(o, spec, _mixer, blocks.feed_forward)


def read_granite_hybrid(config: Config) -> Spec:
    """GraniteMoeHybridForCausalLM: hybrid models, and models of attention layers only."""
    config.expect("normalization_function", "rmsnorm", default="rmsnorm")
    config.expect("hidden_act", "silu", default="silu")
    key = "layer_types" if config.has("layer_types") else "layers_block_type"
    kinds, bias = layer_kinds(config, key, KINDS), config.boolean("attention_bias", False)
    return read_transformer(
        config,
        feed_forward=config.integer("shared_intermediate_size"),
        kinds=kinds,
        moe=_moe(config),
        names=NAMES,
        output_bias=bias,
        qkv_bias=bias,
        rope=_rope(config),
        state=_state(config) if "scan" in kinds else None,
        **multipliers(config),
    )


def _moe(config: Config) -> MoE | None:
    """Experts in every layer, or in none; the top-k routing weights are normalized."""
    if not config.count("num_local_experts", least=0):
        return None
    width = config.integer("intermediate_size")
    shared = config.integer("shared_intermediate_size")
    return read_moe(
        config, "num_local_experts", width, True, shared=shared, stacked=True, shared_weighed=False
    )


def _rope(config: Config) -> Rope:
    """No rope, unless ``position_embedding_type`` is "rope"."""
    kind = config.values.get("position_embedding_type")
    if kind not in (None, "nope", "rope"):
        raise CheckpointError(
            f"{config.where}: position_embedding_type is {kind!r}; known: nope, rope", COMPARE
        )
    return read_rope(config, read_head_width(config)) if kind == "rope" else NO_ROPE


def _state(config: Config) -> StateSpace:
    config.expect("mamba_n_groups", 1, default=1)
    mamba.refuse_step_limits(config)
    inner = config.integer("mamba_expand") * config.integer("hidden_size")
    heads = config.integer("mamba_n_heads")
    derived = config.values.get("mamba_d_head", "auto") == "auto"
    width = inner // heads if derived else config.integer("mamba_d_head")
    if heads * width != inner:
        raise CheckpointError(
            f"{config.where}: {heads} heads of {width} channels (mamba_n_heads, mamba_d_head) are "
            f"not the {inner} of mamba_expand times hidden_size",
            COMPARE,
        )
    return StateSpace(
        inner=inner,
        heads=heads,
        state=config.integer("mamba_d_state"),
        kernel=config.integer("mamba_d_conv", least=2),
        rank=0,
        conv_bias=config.boolean("mamba_conv_bias"),
        bias=config.boolean("mamba_proj_bias"),
    )


def _mixer(o: Ops[V], spec: Spec, x: V, layer: int) -> V:
    if spec.kinds[layer] == "scan":
        return mamba.mixer(o, spec, x, f"model.layers.{layer}.mamba", layer)
    return blocks.attention(o, spec, x, layer)
