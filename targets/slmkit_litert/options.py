"""Options under the recipe's ``artifacts: {litert: ...}``, and schemes without kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmkit.backend.interface import Model
from slmkit.backend.support import (
    Refusal,
    Support,
    one_of,
    refuse_asymmetric,
    refuse_groups,
    refuse_palettes,
)
from slmkit.quant.codes import padded_width
from slmkit.recipe.scheme import Scheme

SUPPORT = Support(
    "litert",
    options={
        "require": one_of("delegation"),
        "tokenizer": one_of("huggingface", "sentencepiece"),
        "task": one_of(True, False),
    },
    refusals=(
        refuse_palettes("palettes have no kernels: name them under artifacts.coreml.weights"),
        refuse_asymmetric("asymmetric codes have no kernels: use symmetric: true"),
        refuse_groups(8, "8-bit groups have no kernels: use encoding: per-channel"),
        Refusal(
            lambda scheme: scheme.encoding == "group-wise" and scheme.scales == "float16",
            "XNNPACK rounds the scales of groups to bfloat16: use scales: free",
        ),
    ),
)


def problems(model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any]) -> list[str]:
    """Reasons why this backend cannot build the model with the recipe, one sentence each."""
    return SUPPORT.problems(model, schemes, options)


def weight_bytes(rows: int, width: int, scheme: Scheme) -> int:
    """Bytes of one matrix in memory: XNNPACK packs a copy of its own beside the mapped file."""
    if scheme.bits is None:
        return rows * width * 8
    padded = padded_width(scheme, width)
    groups = padded // (scheme.group_size or padded)
    return 2 * rows * (padded * scheme.bits // 8 + 4 * groups)
