"""Names and sizes of the ``litert`` artifact's files with weights, computed from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from slmkit.backend.interface import Model, WeightFile
from slmkit.recipe.scheme import Scheme
from slmkit_litert.lowering.weight_layout import matrix_of, weight_layout, weight_shapes

MODEL, BUNDLE, TASK = "model.tflite", "model.litertlm", "model.task"
# Bytes of
FLOAT = 4  # a number of a vector, of a rope table, or of a matrix in float16
GROUP = 2  # a group's scale
CHANNEL = 2 * (4 + 8)  # a channel's scale and zero point, in the graphs of both signatures


def weight_files(
    model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any], context_length: int
) -> list[WeightFile]:
    """The .tflite, and the files for LiteRT-LM, which contain it."""
    shapes = weight_shapes(model, weight_layout(model, schemes))
    size = FLOAT * context_length * sum(rope.width for rope in model.spec.ropes)
    for tensor, shape in shapes.items():
        size += _tensor_bytes(shape, schemes.get(matrix_of(tensor)))
    return [
        WeightFile(MODEL, size, "the whole model"),
        *(
            WeightFile(name, size, f"{MODEL} and the tokenizer")
            for name in bundle_names(model, options)
        ),
    ]


def bundle_names(model: Model, options: Mapping[str, Any]) -> list[str]:
    """Names of the files for LiteRT-LM: none for models with recurrent states.

    LiteRT-LM does not support those. The older format is added with the option ``task``.
    """
    if model.states:
        return []
    return [BUNDLE, TASK] if options.get("task") else [BUNDLE]


def _tensor_bytes(shape: tuple[int, ...], scheme: Scheme | None) -> int:
    """Bytes of a vector, or of a matrix as ``weights.encode_weight`` stores it."""
    if scheme is None or scheme.bits is None:
        return math.prod(shape) * FLOAT
    rows, width = shape
    scales = -(-width // scheme.group_size) * GROUP if scheme.group_size else CHANNEL
    return -(-rows * width * scheme.bits // 8) + rows * scales
