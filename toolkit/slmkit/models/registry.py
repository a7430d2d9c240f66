"""Which architecture computes a ``model_type``: one line per type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from slmkit.errors import CheckpointError
from slmkit.models import llama
from slmkit.models.config import Config
from slmkit.models.spec import Spec
from slmkit.ops import Ops, V


class Forward(Protocol):
    """The arithmetic of an architecture, over any interpreter."""

    def __call__(self, o: Ops[V], spec: Spec, /) -> V:
        """Token ids to logits. -> (T, V)"""
        ...


@dataclass(frozen=True)
class Architecture:
    """How config.json becomes a spec, and the arithmetic over that spec."""

    read: Callable[[Config], Spec]
    forward: Forward


MODELS = {
    "llama": Architecture(llama.read_llama, llama.forward),
    "mistral": Architecture(llama.read_mistral, llama.forward),
    "qwen2": Architecture(llama.read_qwen2, llama.forward),
    "qwen3": Architecture(llama.read_qwen3, llama.forward),
}


def read_spec(config: Config) -> Spec:
    """The spec of a config.json; an unknown ``model_type`` lists the known ones."""
    model_type = config.string("model_type")
    if model_type not in MODELS:
        raise CheckpointError(
            f"{config.where}: model_type {model_type!r} is not supported",
            f"supported: {', '.join(sorted(MODELS))}",
        )
    return MODELS[model_type].read(config)


def run(o: Ops[V], spec: Spec) -> V:
    """Speak the architecture of ``spec`` to an interpreter. -> logits (T, V)"""
    return MODELS[spec.model_type].forward(o, spec)
