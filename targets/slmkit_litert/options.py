"""The recipe's ``artifacts: {litert: ...}``, and what LiteRT cannot take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmkit.backend.interface import Model, one_of, option_problems
from slmkit.quant.codes import padded_width
from slmkit.recipe.scheme import Scheme

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
OPTIONS = {
    "require": one_of("delegation"),
    "tokenizer": one_of("huggingface", "sentencepiece"),
    "task": one_of(True, False),
}


def problems(model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any]) -> list[str]:
    """Everything that this backend cannot do for the model and recipe, one sentence each."""
    found = option_problems("litert", options, OPTIONS)
    found += [f"litert has no form of the op {op}" for op in sorted(set(model.ops) - OPS)]
    reasons: dict[str, list[str]] = {}
    for name, scheme in schemes.items():
        why = refused(scheme)
        if why:
            reasons.setdefault(f"{scheme}: {why}", []).append(name)
    return found + [
        f"litert cannot take {names[0]}{f' and {len(names) - 1} others' if names[1:] else ''} "
        f"in {why}"
        for why, names in reasons.items()
    ]


def refused(scheme: Scheme) -> str:
    """Why LiteRT has no exact kernel for a scheme; empty if it has one."""
    if scheme.encoding == "palette":
        return "palettes have no kernels: name them under artifacts.coreml.weights"
    if not scheme.symmetric:
        return "asymmetric codes have no kernels: use symmetric: true"
    if scheme.encoding == "group-wise" and scheme.bits == 8:
        return "8-bit groups have no kernels: use encoding: per-channel"
    return ""


def filled_widths(model: Model, schemes: Mapping[str, Scheme]) -> dict[str, int]:
    """Inputs of the linears that a group does not divide, filled up; others are left out."""
    return {
        name: padded
        for name in sorted(model.multiplied - model.looked_up)
        if schemes[name].group_size
        and (padded := padded_width(schemes[name], model.shapes[name][1])) != model.shapes[name][1]
    }


def weight_bytes(rows: int, width: int, scheme: Scheme) -> int:
    """One weight in memory: XNNPACK packs a copy of its own beside the mapped file."""
    if scheme.bits is None:
        return rows * width * 8
    padded = padded_width(scheme, width)
    groups = padded // (scheme.group_size or padded)
    return 2 * rows * (padded * scheme.bits // 8 + 4 * groups)
