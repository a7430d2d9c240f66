"""Operations that coremltools cannot evaluate, or not exactly enough, each tested on its own.

A weight is an array, or ``Parts`` of one that is decompressed for each use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from slmkit.errors import BackendError
from slmkit_coreml.layout import Array

ALL = slice(None)
ROWS = 1024  # rows of a product computed at a time, of a weight that may come in parts


class Parts:
    """A weight of codes: a slice of its rows is decompressed when it is asked for."""

    def __init__(self, shape: tuple[int, ...], read: Callable[[slice], Array]) -> None:
        """``read``: gives rows, decompressed."""
        self.shape, self.read = shape, read

    def __getitem__(self, rows: slice) -> Array:
        return self.read(rows)


def conv(op: Any) -> Array:
    """A 1x1 convolution. [1, I, 1, T] -> [1, O, 1, T]"""
    x, weight = op.x.val, op.weight.val
    if weight.shape[2:] != (1, 1) or op.pad_type.val != "valid":
        raise NotImplementedError
    rows, columns = weight.shape[0], x.reshape(x.shape[1], -1)
    product = np.empty((rows, columns.shape[1]), np.float32)
    for first in range(0, rows, ROWS):
        part = slice(first, first + ROWS)
        np.matmul(weight[part].reshape(-1, len(columns)), columns, out=product[part])
    return product.reshape(1, -1, *x.shape[2:])


def silu(op: Any) -> Array:
    """x * sigmoid(x): coremltools' backend fuses the two."""
    x = op.x.val
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the right limit, 0
        result: Array = x / (1 + np.exp(-x))
    return result


def layer_norm(op: Any) -> Array:
    """(x - mean) / sqrt(variance + epsilon), summed in float64.

    A norm of [x, -x] has the mean 0, as RMSNorm asks. coremltools sums in float32, in an order
    that depends on the processor: what it has for a mean, a gain of 100,000 makes visible.
    """
    if op.gamma is not None or op.beta is not None:
        raise NotImplementedError
    x, axes = np.asarray(op.x.val), tuple(op.axes.val)
    centred = x - np.mean(x, axis=axes, keepdims=True, dtype=np.float64)
    variance = np.mean(np.square(centred), axis=axes, keepdims=True)
    result: Array = (centred / np.sqrt(variance + op.epsilon.val)).astype(np.float32)
    return result


def scaled_dot_product_attention(op: Any) -> Array:
    """softmax(q k^T / sqrt(E) + mask) v, as the operation's documentation has it."""
    query, key, value = op.query.val, op.key.val, op.value.val
    scores = query @ np.swapaxes(key, -1, -2) / np.float32(np.sqrt(query.shape[-1]))
    if op.attn_mask is not None:
        if op.attn_mask.val.dtype == np.bool_:
            raise NotImplementedError
        scores = scores + op.attn_mask.val
    probabilities = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    output: Array = probabilities @ value
    return output


def cast(op: Any) -> Array:
    """Cast; float types stay float32, because the evaluator's precision decides about rounding."""
    dtypes = {"fp16": np.float32, "fp32": np.float32, "int32": np.int32, "bool": np.bool_}
    if op.dtype.val not in dtypes:
        raise NotImplementedError
    result: Array = np.asarray(op.x.val).astype(dtypes[op.dtype.val])
    return result


def decompress(op: Any, rows: slice = ALL) -> Array:
    """Decompress rows of a constexpr to float32, from float32 scales or palettes.

    coremltools repeats the palette for every number, 256 bytes each. So palettes are decompressed
    here, and the first row of every weight is compared with coremltools. Raises BackendError if
    they differ.
    """
    if op.op_type == "constexpr_lut_to_dense":
        return _from_palettes(op, rows)
    if op.op_type == "constexpr_blockwise_shift_scale" and len(op.scale.val) == len(op.data.val):
        offset = None if op.offset is None else op.offset.val[rows]
        return np.asarray(op.decompress(op.data.val[rows], op.scale.val[rows], offset), np.float32)
    return np.asarray(op.materialized_val_inference(), dtype=np.float32)[rows]


def in_float16(op: Any) -> bool:
    """Whether every number of a constexpr is one of float16, as palettes in files are."""
    if op.op_type != "constexpr_lut_to_dense":
        return False
    palettes = np.asarray(op.lut.val)
    return bool(np.array_equal(palettes, palettes.astype(np.float16)))


def _from_palettes(op: Any, rows: slice) -> Array:
    """As ``decompress``, of indices and palettes, each palette for as many rows."""
    indices, palettes = op.indices.val, np.asarray(op.lut.val, np.float32)
    if palettes.size != palettes.shape[0] * palettes.shape[-2]:
        raise NotImplementedError
    flat, each = palettes.reshape(palettes.shape[0], -1), len(indices) // palettes.shape[0]
    first, end, _ = rows.indices(len(indices))
    weight = np.empty((end - first, *indices.shape[1:]), np.float32)
    for number in range(first // each, -(-end // each)):
        begin, last = max(first, number * each), min(end, (number + 1) * each)
        out = weight[begin - first : last - first]
        np.take(flat[number], indices[begin:last], out=out, mode="clip")
    if first == 0 and not np.array_equal(
        op.decompress(indices[:1], op.lut.val[:1], None), weight[:1]
    ):
        raise BackendError(
            f"the evaluator and coremltools decompress {op.name} differently", "please report this"
        )
    return weight


KERNELS: dict[str, Callable[[Any], Array]] = {
    "conv": conv,
    "silu": silu,
    "layer_norm": layer_norm,
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "cast": cast,
}
