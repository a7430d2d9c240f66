"""The table of architectures by Hugging Face ``model_type``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from slmkit.errors import CheckpointError
from slmkit.models import gemma, granite, granite_hybrid, lfm2, llama, mamba, moe, phi3, smollm3
from slmkit.models.config import Config
from slmkit.models.spec import Spec
from slmkit.models.text_part import is_larger, text_part
from slmkit.models.weight_transforms import WeightTransforms
from slmkit.ops import Ops, V


class Forward(Protocol):
    """The forward pass of an architecture, over any interpreter."""

    def __call__(self, o: Ops[V], spec: Spec, /) -> V:
        """Token ids to logits. -> (T, V)"""
        ...


@dataclass(frozen=True)
class Architecture:
    """One architecture: config reader, forward pass, and how its tensors are stored."""

    read: Callable[[Config], Spec]
    forward: Forward
    transforms: WeightTransforms = field(default_factory=dict)  # of stored tensors, by name ending
    stacked: tuple[str, ...] = ()  # name endings of tensors that hold one matrix per expert


MODELS = {
    "gemma": Architecture(gemma.read_gemma, llama.forward, gemma.TRANSFORMS),
    "gemma2": Architecture(gemma.read_gemma2, gemma.forward, gemma.TRANSFORMS),
    "gemma3_text": Architecture(gemma.read_gemma3, gemma.forward, gemma.TRANSFORMS),
    "granite": Architecture(granite.read_granite, llama.forward),
    "granitemoe": Architecture(moe.read_granitemoe, llama.forward, stacked=moe.STACKED),
    "granitemoehybrid": Architecture(
        granite_hybrid.read_granite_hybrid, granite_hybrid.forward, mamba.TRANSFORMS, moe.STACKED
    ),
    "lfm2": Architecture(lfm2.read_lfm2, lfm2.forward),
    "llama": Architecture(llama.read_llama, llama.forward),
    "mamba": Architecture(mamba.read_mamba, mamba.forward, mamba.TRANSFORMS),
    "mamba2": Architecture(mamba.read_mamba2, mamba.forward, mamba.TRANSFORMS),
    "mistral": Architecture(llama.read_mistral, llama.forward),
    "olmoe": Architecture(moe.read_olmoe, llama.forward),
    "phi3": Architecture(phi3.read_phi3, llama.forward),
    "qwen2": Architecture(llama.read_qwen2, llama.forward),
    "qwen2_moe": Architecture(moe.read_qwen2_moe, llama.forward),
    "qwen3": Architecture(llama.read_qwen3, llama.forward),
    "qwen3_moe": Architecture(moe.read_qwen3_moe, llama.forward),
    "smollm3": Architecture(smollm3.read_smollm3, llama.forward),
}


def read_spec(config: Config) -> Spec:
    """The spec of a config.json, or of its text part. Raises CheckpointError for others."""
    config = text_part(config, MODELS)
    model_type = config.string("model_type")
    if model_type not in MODELS:
        raise CheckpointError(
            f"{config.where}: model_type {model_type!r} is not supported",
            f"supported: {', '.join(sorted(MODELS))}",
        )
    return MODELS[model_type].read(config)


def other_family(config: Config) -> str:
    """The classes in ``architectures`` that are not of the family of ``model_type``, or "".

    A class of transformers begins with its family's name: Qwen2MoeForCausalLM of qwen2_moe,
    Gemma3ForCausalLM of gemma3_text. Text parts of larger models name theirs elsewhere.
    """
    classes, own = config.values.get("architectures"), config.values.get("model_type")
    if not isinstance(classes, list) or not isinstance(own, str) or is_larger(config, MODELS):
        return ""
    families = [re.sub(r"(For[A-Z]\w*|(LMHead)?Model)$", "", str(each)) for each in classes]
    same = own.removesuffix("_text").replace("_", "")
    others = [
        str(name) for name, family in zip(classes, families, strict=True) if family.lower() != same
    ]
    return ", ".join(others)


def run(o: Ops[V], spec: Spec) -> V:
    """Run the forward pass of ``spec`` on an interpreter. -> logits (T, V)"""
    return MODELS[spec.model_type].forward(o, spec)


def architecture(spec: Spec) -> Architecture:
    """The architecture of ``spec``."""
    return MODELS[spec.model_type]
