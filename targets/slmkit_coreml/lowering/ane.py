"""The layout of the Neural Engine: BC1S, 1x1 convolutions, one head at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813

from slmkit.ops import Attention
from slmkit_coreml.contract import head_parts
from slmkit_coreml.lowering.ops import CoremlOps, chunk_op, identifier, multiply, scale_factors
from slmkit_coreml.lowering.value import Value


class AneOps(CoremlOps):
    """Values (D,) are [1, D, 1, T], values (H, d) are [1, H, d, T]."""

    def channel_axis(self, shape: tuple[int, ...]) -> int:
        return len(shape)

    def to_channels_first(self, x: Value) -> Any:
        return x.variable

    def from_channels_first(self, x: Any) -> Any:
        return x

    def look_up(self, name: str, rows: int) -> Any:
        """Of each part of the table, the rows that it has, and zeros for the others; their sum."""
        parts = head_parts(rows)
        ids = mb.reshape(x=self.inputs["ids"], shape=[self.signature.window.tokens])
        total = None
        for first, end in parts:
            found = _look_up_part(self._kernel(name, first, end), ids, first, end, len(parts) == 1)
            total = found if total is None else mb.add(x=total, y=found)
        return mb.transpose(x=total, perm=[2, 1, 3, 0])

    @chunk_op
    def linear(self, x: Value, name: str, width: int, bias: bool = False) -> Value:
        variable = x.variable
        parts = [self._rows(variable, name, first, end, bias) for first, end in head_parts(width)]
        return Value(tuple(parts), (width,))

    @chunk_op
    def split_heads(self, x: Value, heads: int) -> Value:
        width = x.shape[0] // heads
        shape = [1, heads, width, self.signature.window.tokens]
        return Value((mb.reshape(x=x.variable, shape=shape),), (heads, width))

    @chunk_op
    def attend(self, q: Value, k: Value, v: Value, layer: int, kind: Attention) -> Value:
        heads, kv_heads, width = *(each.shape[0] for each in (q, k)), q.shape[1]
        for_q, for_k = scale_factors(kind.scale / (kind.cap or 1))
        query = self._flatten(mb.mul(x=q.variable, y=for_q), heads * width)
        new_k = self._flatten(mb.mul(x=k.variable, y=for_k), kv_heads * width)
        new_v = self._flatten(v.variable, kv_heads * width)
        keys = mb.transpose(x=self.cache.append("key", layer, new_k), perm=[0, 3, 2, 1])
        values = self.cache.append("value", layer, new_v)
        group_keys, group_values = _split(keys, kv_heads, 3), _split(values, kv_heads, 1)
        mask, group_size = self.mask(kind.window), heads // kv_heads
        outputs = []
        for head, head_query in enumerate(_split(query, heads, 1)):
            key, value = group_keys[head // group_size], group_values[head // group_size]
            outputs.append(_attend_head(head_query, key, value, mask, kind.cap))
        variable = mb.concat(values=outputs, axis=1) if len(outputs) > 1 else outputs[0]
        return Value((variable,), (heads * width,))

    def _rows(self, x: Any, name: str, first: int, end: int, bias: bool) -> Any:
        """Outputs ``first`` to ``end`` - 1 of a linear, as a convolution. [1, D, 1, T]"""
        label, kernel = f"{identifier(name)}_{first}", self._kernel(name, first, end)
        part = mb.conv(x=x, weight=kernel, pad_type="valid", name=label)
        if part.shape[1] > end - first:  # padding rows of a palette's last group
            size = [1, end - first, 1, self.signature.window.tokens]
            part = mb.slice_by_size(x=part, begin=[0, 0, 0, 0], size=size)
        if bias:
            term = self.weights.vector(f"{name}.bias", slice(first, end), ones=2)
            part = mb.add(x=part, y=term)
        return part

    def _kernel(self, name: str, first: int, end: int) -> Any:
        """Rows ``first`` to ``end`` - 1 of a matrix as the weight of a convolution. [O, D, 1, 1]"""
        label = f"{identifier(name)}_{first}_weight"
        return self.weights.matrix(name, slice(first, end), label, ones=2)

    def _flatten(self, x: Any, width: int) -> Any:
        return mb.reshape(x=x, shape=[1, width, 1, self.signature.window.tokens])


def _look_up_part(table: Any, ids: Any, first: int, end: int, whole: bool) -> Any:
    """The rows of ids from ``first`` to ``end`` - 1, zeros for other ids. [T, D, 1, 1]"""
    if whole:
        return mb.gather(x=table, indices=ids, axis=0)
    inside = mb.logical_and(
        x=mb.greater_equal(x=ids, y=np.int32(first)), y=mb.less(x=ids, y=np.int32(end))
    )
    at = mb.mul(x=mb.sub(x=ids, y=np.int32(first)), y=mb.cast(x=inside, dtype="int32"))
    found = mb.gather(x=table, indices=at, axis=0)
    here = mb.expand_dims(x=mb.cast(x=inside, dtype="fp16"), axes=[1, 2, 3])
    return mb.mul(x=found, y=here)


def _attend_head(query: Any, key: Any, value: Any, mask: Any, cap: float | None) -> Any:
    """Attention of one head, softmax over the channel axis.

    [1, d, 1, T], [1, S, 1, d], [1, d, 1, S], [1, S, 1, T] -> [1, d, 1, T]
    """
    scores = mb.einsum(values=(key, query), equation="nchw,nwhu->nchu")
    if cap is not None:  # the query and key factors divide the scores by the cap
        scores = multiply(mb.tanh(x=scores), cap)
    probabilities = mb.softmax(x=mb.add(x=scores, y=mask), axis=1)
    return mb.einsum(values=(value, probabilities), equation="nchw,nwhu->nchu")


def _split(x: Any, parts: int, axis: int) -> list[Any]:
    return list(mb.split(x=x, num_splits=parts, axis=axis)) if parts > 1 else [x]
