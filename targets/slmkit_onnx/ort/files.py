"""The size of the ``ort`` artifact's data file, computed from shapes."""

from __future__ import annotations

from collections.abc import Mapping

from slmkit.backend.interface import Model
from slmkit.recipe.scheme import Scheme

DATA = "model.onnx.data"
PER_CHANNEL_BLOCK = 128  # kernels take blocks of 16 to 256 inputs: a row's scale is repeated
FLOAT = 4  # bytes of a scale, or of an element of a vector or a rope table


def matrix_bytes(shape: tuple[int, ...], scheme: Scheme) -> int:
    """Bytes of a matrix: whole blocks of codes, each with a float32 scale, perhaps a zero point."""
    rows, width = shape
    if scheme.bits is None:
        return rows * width * 2
    block = scheme.group_size or PER_CHANNEL_BLOCK
    blocks = -(-width // block)
    zeros = 0 if scheme.symmetric else -(-blocks * scheme.bits // 8)
    return rows * (blocks * (block * scheme.bits // 8 + FLOAT) + zeros)


def data_bytes(model: Model, schemes: Mapping[str, Scheme], context_length: int) -> int:
    """Bytes of all matrices and vectors, each once, and of cos and sin for every position."""
    matrices = sum(matrix_bytes(model.shapes[name], schemes[name]) for name in schemes)
    ropes = sum(rope.width for rope in model.spec.ropes) * context_length
    return matrices + FLOAT * (model.vector_numbers + ropes)
