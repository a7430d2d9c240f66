"""Operations that coremltools gives no meaning to: ours, each tested against another source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from slmkit_coreml.layout import Array


def conv(op: Any) -> Array:
    """A 1x1 convolution. [1, I, 1, T] -> [1, O, 1, T]"""
    x, weight = op.x.val, op.weight.val
    if weight.shape[2:] != (1, 1) or op.pad_type.val != "valid":
        raise NotImplementedError
    product: Array = weight.reshape(weight.shape[0], -1) @ x.reshape(x.shape[1], -1)
    return product.reshape(1, -1, *x.shape[2:])


def silu(op: Any) -> Array:
    """x * sigmoid(x): coremltools' backend makes one op of the two."""
    x = op.x.val
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the right limit, 0
        result: Array = x / (1 + np.exp(-x))
    return result


def scaled_dot_product_attention(op: Any) -> Array:
    """softmax(q k^T / sqrt(E) + mask) v, as the operation's documentation has it."""
    query, key, value = op.query.val, op.key.val, op.value.val
    scores = query @ np.swapaxes(key, -1, -2) / np.float32(np.sqrt(query.shape[-1]))
    if op.attn_mask is not None:
        if op.attn_mask.val.dtype == np.bool_:
            raise NotImplementedError
        scores = scores + op.attn_mask.val
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed: Array = weights @ value
    return mixed


def cast(op: Any) -> Array:
    """To another type; a float stays float32, for rounding is the precision's business."""
    kinds = {"fp16": np.float32, "fp32": np.float32, "int32": np.int32, "bool": np.bool_}
    if op.dtype.val not in kinds:
        raise NotImplementedError
    result: Array = np.asarray(op.x.val).astype(kinds[op.dtype.val])
    return result


MISSING: dict[str, Callable[[Any], Array]] = {
    "conv": conv,
    "silu": silu,
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "cast": cast,
}
