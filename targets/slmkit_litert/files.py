"""The files of the ``litert`` artifact that hold weights, by shapes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from slmkit.quant.codes import Scheme
from slmkit.target import Model, WeightFile
from slmkit_litert.options import filled_widths
from slmkit_litert.skeleton import tensors_of

MODEL, BUNDLE, TASK = "model.tflite", "model.litertlm", "model.task"
FLOAT = 4  # bytes of a number of a vector, and of one that the recipe leaves in float16
HALF = 2  # of a group's scale
CHANNEL = 4 + 8  # of a channel's scale and zero point, in the graph of each signature


def weight_files(
    model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any], context_length: int
) -> list[WeightFile]:
    """The model, and the bundles that hold it once more."""
    heads = {name for name in model.multiplied - model.looked_up if ".layers." not in name}
    size = 0
    for tensor, shape in tensors_of(model, filled_widths(model, schemes)).items():
        name = tensor.removesuffix(".weight")
        graphs = 1 if name in heads else 2  # prefill gives no logits
        size += _bytes(shape, schemes.get(name), graphs)
    return [
        WeightFile(MODEL, size, "the whole model"),
        *(WeightFile(name, size, f"{MODEL} and the tokenizer") for name in bundles(model, options)),
    ]


def bundles(model: Model, options: Mapping[str, Any]) -> list[str]:
    """The files for LiteRT-LM, which knows no model that scans; the older one if asked for."""
    if model.states:
        return []
    return [BUNDLE, TASK] if options.get("task") else [BUNDLE]


def _bytes(shape: tuple[int, ...], scheme: Scheme | None, graphs: int) -> int:
    """A vector, or a matrix as ``weights.bound`` has it."""
    if scheme is None or scheme.bits is None:
        return math.prod(shape) * FLOAT
    rows, width = shape
    scales = -(-width // scheme.group_size) * HALF if scheme.group_size else graphs * CHANNEL
    return -(-rows * width * scheme.bits // 8) + rows * scales
