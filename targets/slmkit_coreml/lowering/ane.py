"""The layout of the Neural Engine: BC1S, 1x1 convolutions, heads apart, softmax over channels."""

from __future__ import annotations

from typing import Any

from coremltools.converters.mil import Builder as mb  # noqa: N813

from slmkit.ops import Attention
from slmkit_coreml.contract import head_parts
from slmkit_coreml.lowering.ops import CoremlOps, Value, identifier, scale_factors, times, word


class AneOps(CoremlOps):
    """(D,) lies as [1, D, 1, T], (H, d) as [1, H, d, T]."""

    def channels(self, shape: tuple[int, ...]) -> int:
        return len(shape)

    def upright(self, x: Value) -> Any:
        return x.whole

    def lying(self, x: Any) -> Any:
        return x

    def table_label(self, name: str) -> str:
        return f"{identifier(name)}_table"  # a tied head has convolutions' weights of its own

    @word
    def linear(self, x: Value, name: str, width: int, bias: bool = False) -> Value:
        whole = x.whole
        parts = [self._rows(whole, name, first, end, bias) for first, end in head_parts(width)]
        return Value(tuple(parts), (width,))

    @word
    def split_heads(self, x: Value, heads: int) -> Value:
        width = x.shape[0] // heads
        shape = [1, heads, width, self.border.window.tokens]
        return Value((mb.reshape(x=x.whole, shape=shape),), (heads, width))

    @word
    def attend(self, q: Value, k: Value, v: Value, layer: int, kind: Attention) -> Value:
        heads, kv_heads, width = *(each.shape[0] for each in (q, k)), q.shape[1]
        for_q, for_k = scale_factors(kind.scale / (kind.cap or 1))
        query = self._flat(mb.mul(x=q.whole, y=for_q), heads * width)
        new_k = self._flat(mb.mul(x=k.whole, y=for_k), kv_heads * width)
        new_v = self._flat(v.whole, kv_heads * width)
        keys = mb.transpose(x=self.cache.joined("key", layer, new_k), perm=[0, 3, 2, 1])
        values = self.cache.joined("value", layer, new_v)
        by_group = _apart(keys, kv_heads, 3), _apart(values, kv_heads, 1)
        mask, share = self.mask(kind.window), heads // kv_heads
        mixed = [
            _head(each, by_group[0][head // share], by_group[1][head // share], mask, kind.cap)
            for head, each in enumerate(_apart(query, heads, 1))
        ]
        whole = mb.concat(values=mixed, axis=1) if len(mixed) > 1 else mixed[0]
        return Value((whole,), (heads * width,))

    def _rows(self, x: Any, name: str, first: int, end: int, bias: bool) -> Any:
        """Some outputs of a linear."""
        label = f"{identifier(name)}_{first}"
        kernel = self.weights.matrix(name, slice(first, end), f"{label}_weight", ones=2)
        part = mb.conv(x=x, weight=kernel, pad_type="valid", name=label)
        if part.shape[1] > end - first:  # rows that fill a palette's last group
            size = [1, end - first, 1, self.border.window.tokens]
            part = mb.slice_by_size(x=part, begin=[0, 0, 0, 0], size=size)
        if bias:
            term = self.weights.vector(f"{name}.bias", slice(first, end), after=2)
            part = mb.add(x=part, y=term)
        return part

    def _flat(self, x: Any, width: int) -> Any:
        return mb.reshape(x=x, shape=[1, width, 1, self.border.window.tokens])


def _head(query: Any, key: Any, value: Any, mask: Any, cap: float | None) -> Any:
    """[1, d, 1, T], [1, S, 1, d], [1, d, 1, S], [1, S, 1, T] -> [1, d, 1, T]"""
    scores = mb.einsum(values=(key, query), equation="nchw,nwhu->nchu")
    if cap is not None:  # the scores are divided by it already
        scores = times(mb.tanh(x=scores), cap)
    weights = mb.softmax(x=mb.add(x=scores, y=mask), axis=1)
    return mb.einsum(values=(value, weights), equation="nchw,nwhu->nchu")


def _apart(x: Any, parts: int, axis: int) -> list[Any]:
    return list(mb.split(x=x, num_splits=parts, axis=axis)) if parts > 1 else [x]
