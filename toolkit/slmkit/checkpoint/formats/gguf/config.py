"""The config.json of a model from the metadata of a GGUF file, for the architectures we have.

llama.cpp's loader (``load_arch_hparams`` of each model) says which key means what, and which
facts have no key there because its code fixes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from slmkit.checkpoint.formats.gguf.rope import rope_keys
from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.ops import Floats

ARCHITECTURE = "general.architecture"
MARK = "gguf"  # the key in config.json by which our own folders are known
SAME = "give the original checkpoint, or another GGUF of the model"
Values = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """All that a config.json is made of."""

    architecture: str
    metadata: Config  # keys without the architecture's prefix
    shapes: Mapping[str, tuple[int, ...]]  # of all tensors
    vectors: Mapping[str, Floats] = field(default_factory=dict)  # of rope

    @property
    def layers(self) -> int:
        """L."""
        return self.metadata.count("block_count")

    def has(self, tensor: str) -> bool:
        """Whether a tensor is there, of layer 0."""
        return tensor in self.shapes or f"blk.0.{tensor}" in self.shapes


def config_of(source: Source) -> Values:
    """The values of config.json. Raises CheckpointError, with the key that is missing."""
    if source.architecture not in READERS:
        raise CheckpointError(
            f"the GGUF file is of the architecture {source.architecture!r}, which is not read",
            f"read: {', '.join(sorted(READERS))}; {SAME}, with config.json and safetensors",
        )
    model_type, more = READERS[source.architecture]
    values = _shared(source)
    return {**values, "model_type": model_type, **more(source), MARK: source.architecture}


def _shared(source: Source) -> Values:
    facts = source.metadata
    table = source.shapes.get("token_embd.weight")
    if table is None or len(table) != 2:
        raise CheckpointError("the GGUF file has no matrix token_embd.weight", SAME)
    heads, width = _same(facts, "attention.head_count"), facts.integer("embedding_length")
    head_width = facts.integer("attention.key_length", width // heads)
    values = {
        "hidden_size": width,
        "num_hidden_layers": source.layers,
        "intermediate_size": _same(facts, "feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": _same(facts, "attention.head_count_kv", heads),
        "head_dim": head_width,
        "vocab_size": table[0],
        "max_position_embeddings": facts.integer("context_length"),
        "rms_norm_eps": facts.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": not source.has("output.weight"),
        "torch_dtype": "float16",
    }
    facts.expect("attention.value_length", head_width, default=head_width)
    return values | rope_keys(facts, head_width, source.vectors)


def _same(facts: Config, key: str, default: int | None = None) -> int:
    """A number that may stand once for each layer. Raises CheckpointError if they differ."""
    value = facts.values.get(key)
    if isinstance(value, list):
        if len(set(value)) != 1:
            raise CheckpointError(f"{facts.where}: {key} differs between layers", SAME)
        facts = Config({key: value[0]}, facts.where)
    return facts.integer(key) if default is None else facts.integer(key, default)


def _llama(source: Source) -> Values:
    source.metadata.expect("expert_count", 0, default=0)
    return {
        "attention_bias": source.has("attn_q.bias"),
        "mlp_bias": source.has("ffn_gate.bias"),
        "hidden_act": "silu",
    }


def _granite(source: Source) -> Values:
    facts = source.metadata
    return {
        **_llama(source),
        "embedding_multiplier": facts.number("embedding_scale"),
        "residual_multiplier": facts.number("residual_scale"),
        "attention_multiplier": facts.number("attention.scale"),
        "logits_scaling": facts.number("logit_scale"),
    }


def _qwen2(source: Source) -> Values:
    return {"use_sliding_window": False, "hidden_act": "silu"}


def _qwen3(source: Source) -> Values:
    return {**_qwen2(source), "attention_bias": source.has("attn_q.bias")}


def _experts(normalized: bool) -> Callable[[Source], Values]:
    """Of Qwen's mixtures and OLMoE; ``normalized``: fixed in llama.cpp's graphs."""

    def read(source: Source) -> Values:
        facts = source.metadata
        values: Values = {
            "hidden_act": "silu",
            "num_experts": facts.count("expert_count"),
            "num_experts_per_tok": facts.count("expert_used_count"),
            "norm_topk_prob": normalized,
        }
        for key, stored in (
            ("moe_intermediate_size", "expert_feed_forward_length"),
            ("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
        ):
            if facts.has(stored):
                values[key] = facts.integer(stored)
        return values

    return read


def _gemma(source: Source) -> Values:
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_act": "gelu_pytorch_tanh",
        "attention_bias": source.has("attn_q.bias"),
    }


def _gemma2(source: Source) -> Values:
    facts = source.metadata
    return {
        **_gemma(source),
        "query_pre_attn_scalar": _scalar(source, 46),
        "sliding_window": facts.integer("attention.sliding_window", 4096),
        "layer_types": _pattern(source, 2),
        "attn_logit_softcapping": facts.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": facts.number("final_logit_softcapping", 30.0),
    }


def _gemma3(source: Source) -> Values:
    facts = source.metadata
    caps = {}
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        caps[key] = facts.number(key) if facts.has(key) else None
    return {
        **_gemma(source),
        **caps,
        "query_pre_attn_scalar": _scalar(source, 62),
        "sliding_window": facts.integer("attention.sliding_window"),
        "layer_types": _pattern(source, 6),
        "rope_local_base_freq": facts.number("rope.freq_base_swa", 10000.0),
    }


def _scalar(source: Source, largest: int) -> float:
    """query_pre_attn_scalar: the head's width, but in the 27B model (of ``largest`` layers)
    hidden_size / heads, as llama.cpp has it."""
    facts = source.metadata
    if facts.has("attention.scale"):
        return facts.number("attention.scale") ** -2
    heads, width = facts.integer("attention.head_count"), facts.integer("embedding_length")
    return width // heads if source.layers == largest else facts.integer("attention.key_length")


def _pattern(source: Source, every: int) -> list[str]:
    """layer_types: the last of each ``every`` layers has no window, unless the file says which."""
    stored = source.metadata.values.get("attention.sliding_window_pattern")
    if isinstance(stored, list):
        if len(stored) != source.layers:
            raise CheckpointError(
                f"{source.metadata.where}: attention.sliding_window_pattern has {len(stored)} "
                f"entries for {source.layers} layers",
                SAME,
            )
        windowed = list(map(bool, stored))
    else:
        every = source.metadata.integer("attention.sliding_window_pattern", every)
        windowed = [(layer + 1) % every != 0 for layer in range(source.layers)]
    return ["sliding_attention" if each else "full_attention" for each in windowed]


def _phi3(source: Source) -> Values:
    facts, window = source.metadata, None
    if facts.has("attention.sliding_window"):
        window = facts.integer("attention.sliding_window", least=0) or None
    return {"sliding_window": window, "hidden_act": "silu"}


READERS: dict[str, tuple[str, Callable[[Source], Values]]] = {  # by GGUF's architecture
    "gemma": ("gemma", _gemma),
    "gemma2": ("gemma2", _gemma2),
    "gemma3": ("gemma3_text", _gemma3),
    "granite": ("granite", _granite),
    "llama": ("llama", _llama),
    "olmoe": ("olmoe", _experts(False)),
    "phi3": ("phi3", _phi3),
    "qwen2": ("qwen2", _qwen2),
    "qwen2moe": ("qwen2_moe", _experts(False)),
    "qwen3": ("qwen3", _qwen3),
    "qwen3moe": ("qwen3_moe", _experts(True)),
    "smollm3": ("smollm3", _llama),
}
