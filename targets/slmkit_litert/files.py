"""The files of the ``litert`` artifact that hold weights, by shapes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from slmkit.backend.interface import Model, WeightFile
from slmkit.recipe.scheme import Scheme
from slmkit_litert.lowering.graph_template import tensors_of
from slmkit_litert.options import filled_widths

MODEL, BUNDLE, TASK = "model.tflite", "model.litertlm", "model.task"
FLOAT = 4  # bytes of a number of a vector, of a rope's table, and of one left in float16
HALF = 2  # of a group's scale
CHANNEL = 2 * (4 + 8)  # of a channel's scale and zero point, in the graphs of both signatures


def weight_files(
    model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any], context_length: int
) -> list[WeightFile]:
    """The model, and the bundles that hold it once more."""
    tensors = tensors_of(model, filled_widths(model, schemes))
    size = FLOAT * context_length * sum(rope.width for rope in model.spec.ropes)
    for tensor, shape in tensors.items():
        size += _bytes(shape, schemes.get(tensor.removesuffix(".weight")))
    return [
        WeightFile(MODEL, size, "the whole model"),
        *(WeightFile(name, size, f"{MODEL} and the tokenizer") for name in bundles(model, options)),
    ]


def bundles(model: Model, options: Mapping[str, Any]) -> list[str]:
    """The files for LiteRT-LM, which keeps no states of layers; the older one if asked for."""
    if model.states:
        return []
    return [BUNDLE, TASK] if options.get("task") else [BUNDLE]


def _bytes(shape: tuple[int, ...], scheme: Scheme | None) -> int:
    """A vector, or a matrix as ``weights.bound`` has it."""
    if scheme is None or scheme.bits is None:
        return math.prod(shape) * FLOAT
    rows, width = shape
    scales = -(-width // scheme.group_size) * HALF if scheme.group_size else CHANNEL
    return -(-rows * width * scheme.bits // 8) + rows * scales
