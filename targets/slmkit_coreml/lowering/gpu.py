"""The layout of the GPU: tokens first, plain linears, fused attention."""

from __future__ import annotations

import math
from typing import Any

from coremltools.converters.mil import Builder as mb  # noqa: N813

from slmkit.ops import Attention
from slmkit_coreml.lowering.ops import CoremlOps, Value, identifier, scale_factors, times, word


class GpuOps(CoremlOps):
    """(D,) lies as [1, T, D], (H, d) as [1, H, T, d]."""

    def channels(self, shape: tuple[int, ...]) -> int:
        return len(shape) + 1

    def upright(self, x: Value) -> Any:
        return mb.expand_dims(x=mb.transpose(x=x.whole, perm=[0, 2, 1]), axes=[2])

    def lying(self, x: Any) -> Any:
        return mb.transpose(x=mb.squeeze(x=x, axes=[2]), perm=[0, 2, 1])

    def table_label(self, name: str) -> str:
        return f"{identifier(name)}_weight"  # a tied head reads the same constant

    @word
    def linear(self, x: Value, name: str, width: int, bias: bool = False) -> Value:
        weight = self.weights.matrix(name, slice(0, width), self.table_label(name))
        term = self.weights.bias(f"{name}.bias" if bias else "", weight.shape[0])
        whole = mb.linear(x=x.whole, weight=weight, bias=term, name=identifier(name))
        if whole.shape[2] > width:  # rows that fill a palette's last group
            size = [1, self.border.window.tokens, width]
            whole = mb.slice_by_size(x=whole, begin=[0, 0, 0], size=size)
        return Value((whole,), (width,))

    @word
    def split_heads(self, x: Value, heads: int) -> Value:
        width = x.shape[0] // heads
        apart = mb.reshape(x=x.whole, shape=[1, self.border.window.tokens, heads, width])
        return Value((mb.transpose(x=apart, perm=[0, 2, 1, 3]),), (heads, width))

    @word
    def attend(self, q: Value, k: Value, v: Value, layer: int, kind: Attention) -> Value:
        """The queries of one kv head lie one after the other, as more tokens: no key is copied."""
        (heads, width), kv_heads = q.shape, k.shape[0]
        tokens, share = self.border.window.tokens, heads // kv_heads
        query, key = q.whole, k.whole
        # The fused op itself divides by sqrt(d).
        beside = kind.scale / kind.cap if kind.cap else kind.scale * math.sqrt(width)
        if not math.isclose(beside, 1, rel_tol=1e-6):
            for_q, for_k = scale_factors(beside)
            query, key = mb.mul(x=query, y=for_q), mb.mul(x=key, y=for_k)
        mixed = _mixed(
            mb.reshape(x=query, shape=[1, kv_heads, share * tokens, width]),
            self.cache.joined("key", layer, key),
            self.cache.joined("value", layer, v.whole),
            self._mask(kind.window, share),
            kind.cap,
        )
        apart = mb.reshape(x=mixed, shape=[1, heads, tokens, width])
        joined = mb.transpose(x=apart, perm=[0, 2, 1, 3])
        return Value((mb.reshape(x=joined, shape=[1, tokens, heads * width]),), (heads * width,))

    def _mask(self, window: int | None, share: int) -> Any:
        """The mask for the queries of all heads that share a kv head; made once."""
        key = f"mask of {share} heads, {window}"
        if key not in self.given:
            self.given[key] = mb.concat(values=[self.mask(window)] * share, axis=2)
        return self.given[key]


def _mixed(query: Any, key: Any, value: Any, mask: Any, cap: float | None) -> Any:
    """Fused attention; with a soft cap, which the fused one has not, in steps."""
    if cap is None:
        return mb.scaled_dot_product_attention(query=query, key=key, value=value, attn_mask=mask)
    scores = times(mb.tanh(x=mb.matmul(x=query, y=key, transpose_y=True)), cap)
    weights = mb.softmax(x=mb.add(x=scores, y=mask), axis=-1)
    return mb.matmul(x=weights, y=value)
