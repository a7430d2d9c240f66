"""Keys of config.json about rope, from a GGUF file's metadata and the tensors of factors.

llama.cpp keeps the factors of Llama 3.1's scaling and of longrope as tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.models.rope import rope_of
from slmkit.ops import Floats

THETA = 10000.0  # llama.cpp's value of a missing rope.freq_base
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3_CONTEXT = 8192  # of all models of Meta that have it
TOLERANCE = 1e-5  # relative: the factors are float32


def rope_keys(facts: Config, head_width: int, factors: Mapping[str, Floats]) -> dict[str, Any]:
    """rope_theta, rope_scaling and partial_rotary_factor. Raises CheckpointError."""
    theta = facts.number("rope.freq_base", THETA)
    keys: dict[str, Any] = {"rope_theta": theta}
    rotary = facts.integer("rope.dimension_count", head_width)
    if rotary != head_width:
        keys["partial_rotary_factor"] = rotary / head_width
    if "rope_freqs.weight" in factors:
        return keys | _by_factors(facts, theta, rotary, factors["rope_freqs.weight"])
    names = [f"rope_factors_{each}.weight" for each in ("short", "long")]
    if all(name in factors for name in names):
        return keys | _longrope(facts, [factors[name] for name in names])
    return keys | _scaling(facts)


def _scaling(facts: Config) -> dict[str, Any]:
    kind = facts.string("rope.scaling.type", "none")
    if kind == "none":
        return {}
    scaling: dict[str, Any] = {"rope_type": kind, "factor": facts.number("rope.scaling.factor")}
    if kind == "yarn":
        original = "rope.scaling.original_context_length"
        scaling["original_max_position_embeddings"] = facts.integer(original)
        for key in ("beta_fast", "beta_slow"):
            if facts.has(f"rope.scaling.yarn_{key}"):
                scaling[key] = facts.number(f"rope.scaling.yarn_{key}")
    elif kind != "linear":
        raise CheckpointError(
            f"{facts.where}: rope.scaling.type is {kind!r}, without its tensors of factors",
            "give the original checkpoint, with config.json and safetensors",
        )
    return {"rope_scaling": scaling}


def _by_factors(facts: Config, theta: float, width: int, factors: Floats) -> dict[str, Any]:
    """Llama 3.1's scaling if its rule gives these factors, else the factors themselves."""
    scaling = {
        **LLAMA3,
        "factor": float(factors.max(initial=1)),
        "original_max_position_embeddings": LLAMA3_CONTEXT,
    }
    plain = rope_of(facts, Config({"rope_theta": theta}, facts.where), width)
    if len(factors) == len(plain.frequencies):
        wanted = np.array(plain.frequencies, np.float32) / factors
        whole = Config({**scaling, "rope_theta": theta}, facts.where)
        found = np.array(rope_of(facts, whole, width).frequencies, np.float32)
        if np.allclose(found, wanted, rtol=TOLERANCE, atol=0):
            return {"rope_scaling": scaling}
    listed = [float(each) for each in factors]
    return {
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": listed,
            "long_factor": listed,
            "attention_factor": 1.0,
            "original_max_position_embeddings": facts.integer("context_length"),
        }
    }


def _longrope(facts: Config, factors: list[Floats]) -> dict[str, Any]:
    short, long = ([float(number) for number in each] for each in factors)
    original = facts.integer("rope.scaling.original_context_length")
    scaling: dict[str, Any] = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
    if facts.has("rope.scaling.attn_factor"):
        scaling["attention_factor"] = facts.number("rope.scaling.attn_factor")
    return {"rope_scaling": scaling, "original_max_position_embeddings": original}
