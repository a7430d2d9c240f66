"""The metadata of a GGUF file from a checkpoint's config.json: the inverse of ``config``.

A fact for which llama.cpp has no key is refused by name, for it would compute another model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from slmkit.errors import RefusedError
from slmkit.models.config import Config
from slmkit.models.rope import rope_of
from slmkit.models.rope_facts import rope_facts
from slmkit.models.spec import Spec
from slmkit.ops import Floats

Values = dict[str, Any]
LEAVE = "other artifacts of the bundle are not affected"


@dataclass(frozen=True)
class Facts:
    """An architecture's name, its metadata without the prefix, and the tensors of rope."""

    architecture: str
    values: Values
    factors: Mapping[str, Floats] = field(default_factory=dict)


def metadata_of(spec: Spec, config: Config) -> Facts:
    """The metadata of a model. Raises RefusedError for what GGUF cannot say."""
    if spec.model_type not in WRITERS:
        raise RefusedError(
            f"{spec.model_type} is not written as GGUF; written: {', '.join(sorted(WRITERS))}",
            LEAVE,
        )
    architecture, more = WRITERS[spec.model_type]
    rope, factors = _rope(architecture, spec, config)
    return Facts(architecture, {**_shared(spec), **rope, **more(spec, config)}, factors)


def _shared(spec: Spec) -> Values:
    return {
        "block_count": spec.layers,
        "context_length": spec.trained_context,
        "embedding_length": spec.width,
        "feed_forward_length": spec.feed_forward,
        "attention.head_count": spec.heads,
        "attention.head_count_kv": spec.kv_heads,
        "attention.key_length": spec.head_width,
        "attention.value_length": spec.head_width,
        "attention.layer_norm_rms_epsilon": float(spec.stream_eps),
        "vocab_size": spec.vocabulary,
    }


def _rope(architecture: str, spec: Spec, config: Config) -> tuple[Values, dict[str, Floats]]:
    if spec.long_rope is not None:
        return _longrope(spec, config)
    parameters = config.section("rope_parameters") or Config({}, config.where)
    section = parameters.section("full_attention") or rope_facts(config)
    theta, kind = section.number("rope_theta"), _kind(section)
    width = 2 * len(spec.rope.frequencies)
    values: Values = {"rope.freq_base": theta, "rope.dimension_count": width}
    if kind in ("default", "dynamic"):
        return values, {}
    if kind == "linear":
        factor = section.number("factor")
        return {**values, "rope.scaling.type": "linear", "rope.scaling.factor": factor}, {}
    plain = rope_of(config, Config({"rope_theta": theta}, config.where), width)
    if kind == "llama3" and architecture == "llama":
        factors = np.array(plain.frequencies, np.float64) / np.array(spec.rope.frequencies)
        return values, {"rope_freqs.weight": factors.astype(np.float32)}
    raise RefusedError(f"{config.where}: rope_type {kind!r} is not written as GGUF", LEAVE)


def _longrope(spec: Spec, config: Config) -> tuple[Values, dict[str, Floats]]:
    section = rope_facts(config)
    original = spec.long_rope.beyond if spec.long_rope else spec.trained_context
    values: Values = {
        "rope.freq_base": section.number("rope_theta"),
        "rope.dimension_count": 2 * len(spec.rope.frequencies),
        "rope.scaling.original_context_length": original,
        "rope.scaling.attn_factor": float(spec.rope.magnitude),
    }
    factors = {
        f"rope_factors_{each}.weight": np.array(section.numbers(f"{each}_factor"), np.float32)
        for each in ("short", "long")
    }
    return values, factors


def _kind(section: Config) -> str:
    return section.string("rope_type", section.values.get("type", "default"))


def _plain(spec: Spec, config: Config) -> Values:
    if any(spec.windows):
        raise RefusedError(
            f"GGUF's form of {spec.model_type} has no sliding windows, which this model has", LEAVE
        )
    return {}


def _smollm3(spec: Spec, config: Config) -> Values:
    if spec.nope_layers != tuple(each for each in range(spec.layers) if (each + 1) % 4 == 0):
        raise RefusedError(
            "GGUF's form of smollm3 has no rope in every fourth layer; this model differs", LEAVE
        )
    return _plain(spec, config)


def _phi3(spec: Spec, config: Config) -> Values:
    window = next((each for each in spec.windows if each), spec.trained_context)
    if window < spec.trained_context:
        raise RefusedError(
            f"llama.cpp computes phi3 without its sliding window of {window} tokens", LEAVE
        )
    return {"attention.sliding_window": window}


def _granite(spec: Spec, config: Config) -> Values:
    return {
        **_plain(spec, config),
        "embedding_scale": float(spec.embedding_scale),
        "residual_scale": float(spec.residual_scale),
        "attention.scale": float(spec.attention_scale or spec.head_width**-0.5),
        "logit_scale": float(1 / spec.logits_scale),
    }


def _gemma(spec: Spec, config: Config) -> Values:
    return _plain(spec, config)


def _gemma2(spec: Spec, config: Config) -> Values:
    every = 2 if spec.model_type == "gemma2" else 6
    expected = [(layer + 1) % every != 0 for layer in range(spec.layers)]
    windows = [each for each in spec.windows if each is not None]
    scalar = round((spec.attention_scale or spec.head_width**-0.5) ** -2, 6)
    if [each is not None for each in spec.windows] != expected or len(set(windows)) != 1:
        raise RefusedError(
            f"GGUF's form of {spec.model_type} has a layer without a window after every "
            f"{every - 1} with one: this model has others",
            LEAVE,
        )
    if scalar != spec.head_width:
        raise RefusedError(
            f"GGUF's form of {spec.model_type} divides scores by the root of the head's width "
            f"{spec.head_width}, this model by that of {scalar:g}",
            LEAVE,
        )
    values: Values = {"attention.sliding_window": windows[0]}
    if spec.local_rope is not None:
        parameters = config.section("rope_parameters") or Config({}, config.where)
        local = parameters.section("sliding_attention")
        theta = local.number("rope_theta") if local else config.number("rope_local_base_freq")
        values["rope.freq_base_swa"] = theta
    for key, cap in (("attn", spec.attention_cap), ("final", spec.logits_cap)):
        if cap is not None:
            values[f"{key}_logit_softcapping"] = float(cap)
    return values


def _experts(spec: Spec, config: Config) -> Values:
    moe = spec.moe
    normalized = spec.model_type == "qwen3_moe"
    if moe is None or not all(moe.layers) or moe.routing.normalized != normalized:
        raise RefusedError(
            f"GGUF's form of {spec.model_type} has experts in every layer, "
            f"{'with' if normalized else 'without'} normalized weights: this model differs",
            LEAVE,
        )
    values: Values = {
        **_plain(spec, config),
        "expert_count": moe.experts,
        "expert_used_count": moe.routing.chosen,
        "expert_feed_forward_length": moe.feed_forward,
    }
    if moe.shared:
        values["expert_shared_feed_forward_length"] = moe.shared
    return values


WRITERS: dict[str, tuple[str, Callable[[Spec, Config], Values]]] = {  # by model_type
    "gemma": ("gemma", _gemma),
    "gemma2": ("gemma2", _gemma2),
    "gemma3_text": ("gemma3", _gemma2),
    "granite": ("granite", _granite),
    "llama": ("llama", _plain),
    "mistral": ("llama", _plain),
    "olmoe": ("olmoe", _experts),
    "phi3": ("phi3", _phi3),
    "qwen2": ("qwen2", _plain),
    "qwen2_moe": ("qwen2moe", _experts),
    "qwen3": ("qwen3", _plain),
    "qwen3_moe": ("qwen3moe", _experts),
    "smollm3": ("smollm3", _smollm3),
}
