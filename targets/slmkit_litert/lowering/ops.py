"""The vocabulary as TensorFlow operations, in the forms that XNNPACK has kernels for.

Only the worker process that traces a graph template imports this module, and with it TensorFlow.
Every weight is an input of the function, so that the converter can neither fold nor copy it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

from slmkit.backend.interface import Spec
from slmkit.ops import Attention, Ops, Rope, Routing, Scan
from slmkit_litert.contract import HIDDEN, cache_names, state_name
from slmkit_litert.lowering.scan import causal_convolution, scan_by_head, scan_by_number, softplus
from slmkit_litert.lowering.weight_layout import COLUMNS, MASK, SELECTION, part_of

STEEPNESS = 1e30  # of the step function: times the smallest difference of scores it exceeds 1


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the graph; a vocabulary shape (D,) is stored as [T, D], (H, d) as [H, T, d]."""

    tensor: Any
    shape: tuple[int, ...]


class LitertOps(Ops[Value]):
    """Traces one signature.

    ``inputs``: the signature's tensors by name; ``weights``: those of them that are weights, by the
    tensor's name in the checkpoint; ``caches``: KV cache and states after the step, by output name.
    """

    def __init__(
        self,
        spec: Spec,
        tokens: int,
        context: int,
        inputs: Mapping[str, Any],
        weights: Mapping[str, Any],
        debug: bool = False,
    ) -> None:
        self.spec, self.tokens, self.context = spec, tokens, context
        self.inputs, self.weights, self.debug = inputs, weights, debug
        self.caches: dict[str, Any] = {}
        self.taps: dict[str, Any] = {}
        self.masks: dict[int | None, Any] = {}  # by sliding window
        self.rope_tables: dict[Rope, tuple[Any, Any]] = {}

    def embed(self, name: str, rows: int, width: int) -> Value:
        ids = tf.reshape(self.inputs["tokens"], [self.tokens])
        return Value(tf.gather(self.weights[f"{name}.weight"], ids), (width,))

    def linear(self, x: Value, name: str, width: int, bias: bool = False) -> Value:
        if part_of(name, 0) in self.weights:
            return Value(self._with_bias(self._in_parts(x.tensor, name), name, bias), (width,))
        weight, rows = self.weights[f"{name}.weight"], x.tensor
        apart = self.weights.get(f"{name}{COLUMNS}")
        if apart is not None:
            selected = tf.matmul(rows, self.weights[f"{name}{SELECTION}"], transpose_b=True)
            rest = tf.matmul(rows * self.weights[f"{name}{MASK}"], weight, transpose_b=True)
            return Value(rest + tf.matmul(selected, apart, transpose_b=True), (width,))
        padding = weight.shape[1] - x.shape[0]  # codes that fill the last group
        if padding:
            rows = tf.pad(rows, [[0, 0], [0, padding]])
        product = tf.matmul(rows, weight, transpose_b=True)
        return Value(self._with_bias(product, name, bias), (width,))

    def _with_bias(self, product: Any, name: str, bias: bool) -> Any:
        return product + self.weights[f"{name}.bias"] if bias else product

    def _in_parts(self, rows: Any, name: str) -> Any:
        """A linear whose parts have some of the channels each."""
        products: list[Any] = []
        while (part := self.weights.get(part_of(name, len(products)))) is not None:
            count = part.shape[1]
            channels = tf.slice(rows, [0, len(products) * count], [self.tokens, count])
            products.append(tf.matmul(channels, part, transpose_b=True))
        return sum(products[1:], products[0])

    def rms_norm(self, x: Value, name: str, eps: float) -> Value:
        mean = tf.reduce_mean(x.tensor * x.tensor, -1, keepdims=True)
        root = tf.math.rsqrt(mean + np.float32(eps))
        return Value(x.tensor * root * self.weights[f"{name}.weight"], x.shape)

    def split(self, x: Value, widths: Sequence[int]) -> tuple[Value, ...]:
        """Split by slices: XNNPACK's split makes equal parts only."""
        starts = np.cumsum([0, *widths])
        return tuple(
            Value(tf.slice(x.tensor, [0, start], [self.tokens, width]), (width,))
            for start, width in zip(starts[:-1], widths, strict=True)
        )

    def split_heads(self, x: Value, heads: int) -> Value:
        width = x.shape[0] // heads
        apart = tf.reshape(x.tensor, [self.tokens, heads, width])
        return Value(tf.transpose(apart, [1, 0, 2]), (heads, width))

    def rope(self, x: Value, rope: Rope) -> Value:
        cos, sin = self._rope_table(rope)
        half = rope.width // 2
        a, b = x.tensor[..., :half], x.tensor[..., half : 2 * half]
        rest = [x.tensor[..., 2 * half :]] if rope.width < x.shape[1] else []
        return Value(tf.concat([a * cos - b * sin, b * cos + a * sin, *rest], -1), x.shape)

    def attend(self, q: Value, k: Value, v: Value, layer: int, kind: Attention) -> Value:
        """Attention; the query heads of a kv head are treated as tokens, so no key is copied."""
        (heads, width), kv_heads = q.shape, k.shape[0]
        share, tokens, total = heads // kv_heads, self.tokens, self.context
        keys, values = self._update_cache(layer, k.tensor, tf.transpose(v.tensor, [0, 2, 1]))
        scaled = tf.reshape(q.tensor * np.float32(kind.scale), [1, kv_heads, share * tokens, width])
        scores = tf.reshape(
            tf.matmul(scaled, keys, transpose_b=True), [kv_heads, share, tokens, total]
        )
        if kind.cap is not None:
            scores = tf.tanh(scores * np.float32(1 / kind.cap)) * np.float32(kind.cap)
        probabilities = tf.nn.softmax(
            tf.reshape(scores + self._mask(kind.window), [1, kv_heads, share * tokens, total])
        )
        mixed = tf.matmul(probabilities, values, transpose_b=True)
        mixed = tf.reshape(mixed, [heads, tokens, width])
        joined = tf.reshape(tf.transpose(mixed, [1, 0, 2]), [tokens, heads * width])
        return Value(joined, (heads * width,))

    def add(self, x: Value, y: Value) -> Value:
        return Value(x.tensor + y.tensor, x.shape)

    def mul(self, x: Value, y: Value) -> Value:
        return Value(x.tensor * y.tensor, x.shape)

    def scale(self, x: Value, by: float) -> Value:
        return Value(x.tensor * np.float32(by), x.shape)

    def sigmoid(self, x: Value) -> Value:
        return Value(tf.sigmoid(x.tensor), x.shape)

    def tanh(self, x: Value) -> Value:
        return Value(tf.tanh(x.tensor), x.shape)

    def gelu_tanh(self, x: Value) -> Value:
        return Value(tf.nn.gelu(x.tensor, approximate=True), x.shape)

    def route(self, scores: Value, routing: Routing) -> Value:
        """Choose an expert if fewer than ``routing.chosen`` experts score higher.

        XNNPACK has no comparison and no top-k: of the E * E differences of scores, those above 0
        are counted by a steep step function.
        """
        probabilities = tf.nn.softmax(scores.tensor)
        difference = scores.tensor[:, None, :] - scores.tensor[:, :, None]
        higher = _step(difference)
        count = np.float32(scores.shape[0])
        ranks = tf.reduce_mean(higher, -1) * count
        weights = probabilities * _step(np.float32(routing.chosen - 0.5) - ranks)
        if routing.normalized:
            weights = weights / (tf.reduce_mean(weights, -1, keepdims=True) * count)
        return Value(weights, scores.shape)

    def scale_by_column(self, x: Value, weights: Value, number: int) -> Value:
        return Value(x.tensor * weights.tensor[:, number : number + 1], x.shape)

    def add_bias(self, x: Value, name: str) -> Value:
        return Value(x.tensor + self.weights[name], x.shape)

    def softplus(self, x: Value) -> Value:
        return Value(softplus(x.tensor), x.shape)

    def conv(self, x: Value, name: str, kernel: int, layer: int, bias: bool) -> Value:
        weight = tf.reshape(self.weights[f"{name}.weight"], [-1, kernel])
        state = tf.transpose(self._state("conv", layer))
        output, next_state = causal_convolution(x.tensor, weight, state)
        self._set_state("conv", layer, tf.transpose(next_state))
        if bias:
            output = output + self.weights[f"{name}.bias"]
        return Value(output, x.shape)

    def scan(self, x: Value, step: Value, b: Value, c: Value, layer: int, kind: Scan) -> Value:
        decay, skip = self.weights[f"{kind.at}.A_log"], self.weights[f"{kind.at}.D"]
        state, inputs = self._state("scan", layer), (step.tensor, b.tensor, c.tensor)
        if kind.by_number:
            decay = tf.reshape(decay, [kind.heads, kind.state])
            output, next_state = scan_by_number(x.tensor, *inputs, decay, tf.squeeze(state, -1))
            self._set_state("scan", layer, next_state[..., None])
            return Value(output + x.tensor * skip, x.shape)
        heads = tf.reshape(x.tensor, [self.tokens, kind.heads, -1])
        output, next_state = scan_by_head(heads, *inputs, decay, state)
        self._set_state("scan", layer, next_state)
        output = output + heads * skip[None, :, None]
        return Value(tf.reshape(output, [self.tokens, -1]), x.shape)

    def tap(self, x: Value, name: str) -> Value:
        if self.debug:
            self.taps[name] = tf.identity(x.tensor)
        return x

    def _state(self, kind: str, layer: int) -> Any:
        """A layer's recurrent state before the step."""
        return tf.squeeze(self.inputs[state_name(kind, layer)], 0)

    def _set_state(self, kind: str, layer: int, state: Any) -> None:
        """Make a tensor the layer's recurrent state after the step."""
        self.caches[state_name(kind, layer)] = state[None]

    def _update_cache(self, layer: int, k: Any, v: Any) -> tuple[Any, Any]:
        """Write the new tokens' keys and values into their slots. [1, G, S, d], [1, G, d, S]"""
        zero, position = tf.zeros([1], tf.int32), self.inputs["input_pos"][:1]
        starts = [zero, zero, position, zero], [zero, zero, zero, position]
        for name, new, start in zip(cache_names(layer), (k, v), starts, strict=True):
            self.caches[name] = gen_xla_ops.xla_dynamic_update_slice(
                input=self.inputs[name], update=new[None], indices=tf.concat(start, 0)
            )
        keys, values = (self.caches[name] for name in cache_names(layer))
        return keys, values

    def _mask(self, window: int | None) -> Any:
        """The mask that the runtime passes, combined with a sliding window. [1, 1, T, S]"""
        if window is None:
            return self.inputs["mask"]
        if window not in self.masks:
            slots = np.arange(self.context, dtype=np.int32)
            distance = self.inputs["input_pos"][:, None] - slots[None]
            far = tf.cast(distance >= window, tf.float32) * np.float32(HIDDEN)
            self.masks[window] = tf.minimum(self.inputs["mask"], far[None, None])
        return self.masks[window]

    def _rope_table(self, rope: Rope) -> tuple[Any, Any]:
        """cos and sin at the tokens' positions, from ``Rope.table``. [1, T, width / 2] each"""
        if rope not in self.rope_tables:
            tables = rope.table(np.arange(self.context))
            cos, sin = (tf.gather(table, self.inputs["input_pos"])[None] for table in tables)
            self.rope_tables[rope] = cos, sin
        return self.rope_tables[rope]


def _step(x: Any) -> Any:
    """The step function: 1 where x is above 0, 0 elsewhere."""
    return tf.minimum(tf.maximum(x * np.float32(STEEPNESS), np.float32(0)), np.float32(1))
