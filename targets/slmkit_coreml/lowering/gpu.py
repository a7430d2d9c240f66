"""The layout of the GPU: tokens first, linear operations, fused attention."""

from __future__ import annotations

import math
from typing import Any

from coremltools.converters.mil import Builder as mb  # noqa: N813

from slmkit.ops import Attention
from slmkit_coreml.lowering.ops import CoremlOps, chunk_op, identifier, multiply, scale_factors
from slmkit_coreml.lowering.value import Value


class GpuOps(CoremlOps):
    """Values (D,) are [1, T, D], values (H, d) are [1, H, T, d]."""

    def channel_axis(self, shape: tuple[int, ...]) -> int:
        return len(shape) + 1

    def to_channels_first(self, x: Value) -> Any:
        return mb.expand_dims(x=mb.transpose(x=x.variable, perm=[0, 2, 1]), axes=[2])

    def from_channels_first(self, x: Any) -> Any:
        return mb.transpose(x=mb.squeeze(x=x, axes=[2]), perm=[0, 2, 1])

    def look_up(self, name: str, rows: int) -> Any:
        table = self.weights.matrix(name, slice(0, rows), f"{identifier(name)}_weight")
        return mb.gather(x=table, indices=self.inputs["ids"], axis=0)

    @chunk_op
    def linear(self, x: Value, name: str, width: int, bias: bool = False) -> Value:
        weight = self.weights.matrix(name, slice(0, width), f"{identifier(name)}_weight")
        term = self.weights.bias(f"{name}.bias" if bias else "", weight.shape[0])
        variable = mb.linear(x=x.variable, weight=weight, bias=term, name=identifier(name))
        if variable.shape[2] > width:  # padding rows of a palette's last group
            size = [1, self.signature.window.tokens, width]
            variable = mb.slice_by_size(x=variable, begin=[0, 0, 0], size=size)
        return Value((variable,), (width,))

    @chunk_op
    def split_heads(self, x: Value, heads: int) -> Value:
        width = x.shape[0] // heads
        by_token = mb.reshape(x=x.variable, shape=[1, self.signature.window.tokens, heads, width])
        return Value((mb.transpose(x=by_token, perm=[0, 2, 1, 3]),), (heads, width))

    @chunk_op
    def attend(self, q: Value, k: Value, v: Value, layer: int, kind: Attention) -> Value:
        """Fused attention; query heads of one kv head are stacked as tokens: no key is copied."""
        (heads, width), kv_heads = q.shape, k.shape[0]
        tokens, group_size = self.signature.window.tokens, heads // kv_heads
        query, key = q.variable, k.variable
        # The fused op divides by sqrt(d) itself.
        scale = kind.scale / kind.cap if kind.cap else kind.scale * math.sqrt(width)
        if not math.isclose(scale, 1, rel_tol=1e-6):
            for_q, for_k = scale_factors(scale)
            query, key = mb.mul(x=query, y=for_q), mb.mul(x=key, y=for_k)
        output = _attention(
            mb.reshape(x=query, shape=[1, kv_heads, group_size * tokens, width]),
            self.cache.append("key", layer, key),
            self.cache.append("value", layer, v.variable),
            self._stacked_mask(kind.window, group_size),
            kind.cap,
        )
        output = mb.reshape(x=output, shape=[1, heads, tokens, width])
        output = mb.transpose(x=output, perm=[0, 2, 1, 3])
        return Value((mb.reshape(x=output, shape=[1, tokens, heads * width]),), (heads * width,))

    def _stacked_mask(self, window: int | None, group_size: int) -> Any:
        """The mask repeated for all query heads of a kv head; made once per window."""
        key = f"mask of {group_size} heads, {window}"
        if key not in self.inputs:
            self.inputs[key] = mb.concat(values=[self.mask(window)] * group_size, axis=2)
        return self.inputs[key]


def _attention(query: Any, key: Any, value: Any, mask: Any, cap: float | None) -> Any:
    """Fused attention; in basic operations with a soft cap, which the fused one lacks."""
    if cap is None:
        return mb.scaled_dot_product_attention(query=query, key=key, value=value, attn_mask=mask)
    scores = multiply(mb.tanh(x=mb.matmul(x=query, y=key, transpose_y=True)), cap)
    probabilities = mb.softmax(x=mb.add(x=scores, y=mask), axis=-1)
    return mb.matmul(x=probabilities, y=value)
