"""Mixtures of experts on llama's forward pass: OLMoE, Qwen1.5-MoE, Qwen3-MoE, GraniteMoe."""

from __future__ import annotations

from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.models.granite import multipliers
from slmkit.models.llama import read_qwen2, read_qwen3
from slmkit.models.spec import MoE, Spec
from slmkit.models.transformer_config import COMPARE, read_transformer
from slmkit.ops import Routing

STACKED = (".input_linear.weight", ".output_linear.weight")  # (E, rows, columns): E matrices


def read_olmoe(config: Config) -> Spec:
    """OlmoeForCausalLM: RMS norm over all channels of q and of k."""
    config.expect("clip_qkv", None, default=None)
    width = config.integer("intermediate_size")
    return read_transformer(
        config,
        whole_norm=True,
        moe=read_moe(config, "num_experts", width, _normalized(config)),
    )


def read_qwen2_moe(config: Config) -> Spec:
    """Qwen2MoeForCausalLM: Qwen2 with routed experts and a gated shared expert."""
    shared = config.integer("shared_expert_intermediate_size")
    return read_qwen2(config, moe=_qwen(config, shared))


def read_qwen3_moe(config: Config) -> Spec:
    """Qwen3MoeForCausalLM: Qwen3 with routed experts."""
    return read_qwen3(config, moe=_qwen(config, 0))


def read_granitemoe(config: Config) -> Spec:
    """GraniteMoeForCausalLM: normalized routing weights; all experts in one stored tensor."""
    width = config.integer("intermediate_size")
    moe = read_moe(config, "num_local_experts", width, True, stacked=True)
    bias = config.boolean("attention_bias", False)
    return read_transformer(config, qkv_bias=bias, output_bias=bias, moe=moe, **multipliers(config))


def _qwen(config: Config, shared: int) -> MoE:
    """Experts in every ``decoder_sparse_step``-th layer that is not in ``mlp_only_layers``."""
    step = config.integer("decoder_sparse_step", 1)
    dense = config.integers("mlp_only_layers") if config.has("mlp_only_layers") else []
    layers = range(config.count("num_hidden_layers"))
    sparse = tuple((layer + 1) % step == 0 and layer not in dense for layer in layers)
    width = config.integer("moe_intermediate_size")
    key = "num_experts" if config.has("num_experts") else "num_local_experts"  # transformers 5
    return read_moe(config, key, width, _normalized(config), sparse, shared)


def _normalized(config: Config) -> bool:
    return config.boolean("norm_topk_prob", False)


def read_moe(
    config: Config,
    key: str,
    width: int,
    normalized: bool,
    layers: tuple[bool, ...] = (),
    shared: int = 0,
    **more: bool,
) -> MoE:
    """The experts of config.json.

    ``key``: config key of the number of experts; ``width``: F of each; ``layers``: one flag per
    layer, all true by default; ``shared``: F of the shared expert, 0 for none; ``more``: other
    fields of ``MoE``. Raises CheckpointError if top-k exceeds the number of experts.
    """
    config.expect("hidden_act", "silu", default="silu")  # an expert's activation
    experts, top_k = config.count(key), config.count("num_experts_per_tok")
    if top_k > experts:
        raise CheckpointError(
            f"{config.where}: num_experts_per_tok {top_k} is more than {key} {experts}", COMPARE
        )
    every = (True,) * config.count("num_hidden_layers")
    return MoE(experts, Routing(top_k, normalized), width, layers or every, shared, **more)
