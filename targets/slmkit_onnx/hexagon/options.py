"""The recipe's ``artifacts: {hexagon: ...}``: keys, defaults, mistakes; what HTP cannot take."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slmkit.backend.interface import Model, Option, one_of, option_problems
from slmkit.backend.partition import too_large, unit_bytes
from slmkit.recipe.scheme import Scheme
from slmkit_onnx.hexagon.calibrate.histogram import METHODS
from slmkit_onnx.hexagon.contract import CONTRACTS
from slmkit_onnx.hexagon.lowering.weights import refused
from slmkit_onnx.hexagon.partition import GRAPH_LIMIT, PART_LIMIT, matrix_bytes
from slmkit_onnx.hexagon.qnn import socs

OPS = frozenset(
    {
        "embed",
        "linear",
        "rms_norm",
        "split",
        "split_heads",
        "rope",
        "attend",
        "add",
        "mul",
        "scale",
        "sigmoid",
        "silu",
        "tanh",
        "gelu_tanh",
        "route",
        "scale_by_column",
        "add_bias",
        "softplus",
        "conv",
        "scan",
    }
)


@dataclass(frozen=True)
class Options:
    """The options with their defaults."""

    soc: tuple[str, ...] = socs.DEFAULT
    range: str = "minmax"
    margin: float = 1.5
    tokens: int = 4096  # of calibration text, at most
    runtime: str = "slmkit"
    part_limit: int | None = None  # bytes of weights in one graph; None: PART_LIMIT, where it can
    timeout: int = 3600  # seconds of one compilation


def _whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


OPTIONS = {
    "soc": Option(lambda value: isinstance(value, list | tuple), "a list of chips"),
    "range": one_of(*METHODS),
    "margin": Option(
        lambda value: type(value) in (int, float) and 1 <= value <= 4, "a number from 1 to 4"
    ),
    "tokens": Option(
        lambda value: _whole(value, 1, 10**6), "how many tokens of text to listen to, 1 to 1000000"
    ),
    "runtime": one_of(*CONTRACTS),
    "part_limit": Option(
        lambda value: _whole(value, 1, GRAPH_LIMIT), f"bytes, at most {GRAPH_LIMIT}"
    ),
    "timeout": Option(lambda value: _whole(value, 1, 10**6), "seconds, at least 1"),
}


def read(values: Mapping[str, Any]) -> Options:
    """Options of a recipe in which ``problems`` found nothing."""
    known = dict(values)
    if "soc" in known:
        known["soc"] = tuple(known["soc"])
    return Options(**known)


def problems(model: Model, schemes: Mapping[str, Scheme], values: Mapping[str, Any]) -> list[str]:
    """Everything that HTP or this backend cannot do, one sentence each."""
    found = option_problems("hexagon", values, OPTIONS)
    if OPTIONS["soc"].fits(values.get("soc", ())):
        found += [why for name in values.get("soc", ()) if (why := socs.refused(name))]
    found += [f"HTP has no form of the op {op}" for op in sorted(set(model.ops) - OPS)]
    if model.states and values.get("runtime") == "genai":
        found.append(
            "artifacts.hexagon.runtime: genai's decoder-pipeline keeps keys and values alone, and "
            "this model has states; use runtime: slmkit"
        )
    found += _weights_refused(model, schemes)
    if not found:
        found += _too_large(model, schemes, read(values))
    return found


def _weights_refused(model: Model, schemes: Mapping[str, Scheme]) -> list[str]:
    """Schemes that are not exact on HTP; tables that are only looked up may have any."""
    reasons: dict[str, list[str]] = {}
    for name, scheme in schemes.items():
        why = refused(scheme) if name in model.multiplied else ""
        if why:
            reasons.setdefault(f"{scheme}: {why}", []).append(name)
    return [f"hexagon cannot take {_some(names)} in {why}" for why, names in reasons.items()]


def _some(names: list[str]) -> str:
    """Every name, those of several layers as one: ``model.layers.*.mlp.up_proj (24)``."""
    patterns: dict[str, list[str]] = {}
    for name in names:
        patterns.setdefault(re.sub(r"\.layers\.\d+\.", ".layers.*.", name), []).append(name)
    return ", ".join(
        each[0] if len(each) == 1 else f"{pattern} ({len(each)})"
        for pattern, each in patterns.items()
    )


def _too_large(model: Model, schemes: Mapping[str, Scheme], asked: Options) -> list[str]:
    sizes = sizes_of(model, schemes)
    limit = limit_of(asked, sizes)
    if asked.runtime == "genai" and sum(sizes) > limit:
        return [
            "artifacts.hexagon.runtime: genai takes a model in one part, and this one has "
            f"{sum(sizes)} bytes of weights; the limit of a graph is {limit}"
        ]
    return too_large(sizes, limit, "hexagon")


def limit_of(asked: Options, sizes: Sequence[int]) -> int:
    """Bytes of weights in one part: as asked, or no more than the compiler's memory likes, where a
    model can be cut so."""
    if asked.part_limit is not None:
        return asked.part_limit
    whole = asked.runtime == "genai"
    return GRAPH_LIMIT if whole else min(GRAPH_LIMIT, max(PART_LIMIT, *sizes))


def sizes_of(model: Model, schemes: Mapping[str, Scheme]) -> list[int]:
    """Bytes of each layer's weights on HTP, and of the head's."""
    return unit_bytes(model, schemes, matrix_bytes)
