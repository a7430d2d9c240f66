"""The vocabulary as TensorFlow operations, in the forms that become XNNPACK's kernels.

Only the skeleton's own process imports this: TensorFlow is imported nowhere else. Every weight is
an input of the function, so that the converter can neither fold nor copy it.
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
from slmkit_litert.lowering.scan import convolved, scanned_by_head, scanned_by_number, softplus

MUCH = 1e30  # times the least difference of two scores, it is more than 1


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor: (D,) lies as [T, D], (H, d) as [H, T, d]."""

    tensor: Any
    shape: tuple[int, ...]


class LitertOps(Ops[Value]):
    """Writes one signature. ``given``: its inputs by name; ``weights``: inputs by tensor name."""

    def __init__(
        self,
        spec: Spec,
        tokens: int,
        context: int,
        given: Mapping[str, Any],
        weights: Mapping[str, Any],
        debug: bool = False,
    ) -> None:
        self.spec, self.tokens, self.context = spec, tokens, context
        self.given, self.weights, self.debug = given, weights, debug
        self.caches: dict[str, Any] = {}
        self.taps: dict[str, Any] = {}
        self.masks: dict[int | None, Any] = {}
        self.tables: dict[Rope, tuple[Any, Any]] = {}

    def embed(self, name: str, rows: int, width: int) -> Value:
        ids = tf.reshape(self.given["tokens"], [self.tokens])
        return Value(tf.gather(self.weights[f"{name}.weight"], ids), (width,))

    def linear(self, x: Value, name: str, width: int, bias: bool = False) -> Value:
        weight, rows = self.weights[f"{name}.weight"], x.tensor
        missing = weight.shape[1] - x.shape[0]  # codes that fill the last group
        if missing:
            rows = tf.pad(rows, [[0, 0], [0, missing]])
        product = tf.matmul(rows, weight, transpose_b=True)
        if bias:
            product += self.weights[f"{name}.bias"]
        return Value(product, (width,))

    def rms_norm(self, x: Value, name: str, eps: float) -> Value:
        mean = tf.reduce_mean(x.tensor * x.tensor, -1, keepdims=True)
        root = tf.math.rsqrt(mean + np.float32(eps))
        return Value(x.tensor * root * self.weights[f"{name}.weight"], x.shape)

    def split(self, x: Value, widths: Sequence[int]) -> tuple[Value, ...]:
        """By slices: XNNPACK splits into equal parts only."""
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
        cos, sin = self._table(rope)
        half = rope.width // 2
        a, b = x.tensor[..., :half], x.tensor[..., half : 2 * half]
        still = [x.tensor[..., 2 * half :]] if rope.width < x.shape[1] else []
        return Value(tf.concat([a * cos - b * sin, b * cos + a * sin, *still], -1), x.shape)

    def attend(self, q: Value, k: Value, v: Value, layer: int, kind: Attention) -> Value:
        """The queries of one kv head lie one after the other, as more tokens: no key is copied."""
        (heads, width), kv_heads = q.shape, k.shape[0]
        share, tokens, total = heads // kv_heads, self.tokens, self.context
        keys, values = self._cached(layer, k.tensor, tf.transpose(v.tensor, [0, 2, 1]))
        scaled = tf.reshape(q.tensor * np.float32(kind.scale), [1, kv_heads, share * tokens, width])
        scores = tf.reshape(
            tf.matmul(scaled, keys, transpose_b=True), [kv_heads, share, tokens, total]
        )
        if kind.cap is not None:
            scores = tf.tanh(scores * np.float32(1 / kind.cap)) * np.float32(kind.cap)
        weights = tf.nn.softmax(
            tf.reshape(scores + self._mask(kind.window), [1, kv_heads, share * tokens, total])
        )
        mixed = tf.reshape(tf.matmul(weights, values, transpose_b=True), [heads, tokens, width])
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
        """An expert is chosen if fewer than ``chosen`` score higher: E * E differences, whose
        signs are 0 or 1 when multiplied by very much. XNNPACK has no comparison and no top-k."""
        probabilities = tf.nn.softmax(scores.tensor)
        difference = scores.tensor[:, None, :] - scores.tensor[:, :, None]
        higher = _step(difference)
        count = np.float32(scores.shape[0])
        ranks = tf.reduce_mean(higher, -1) * count
        kept = probabilities * _step(np.float32(routing.chosen - 0.5) - ranks)
        if routing.normalized:
            kept = kept / (tf.reduce_mean(kept, -1, keepdims=True) * count)
        return Value(kept, scores.shape)

    def scale_by_column(self, x: Value, weights: Value, number: int) -> Value:
        return Value(x.tensor * weights.tensor[:, number : number + 1], x.shape)

    def add_bias(self, x: Value, name: str) -> Value:
        return Value(x.tensor + self.weights[name], x.shape)

    def softplus(self, x: Value) -> Value:
        return Value(softplus(x.tensor), x.shape)

    def conv(self, x: Value, name: str, kernel: int, layer: int, bias: bool) -> Value:
        weight = tf.reshape(self.weights[f"{name}.weight"], [-1, kernel])
        before = tf.transpose(self._state("conv", layer))
        given, kept = convolved(x.tensor, weight, before)
        self._keep("conv", layer, tf.transpose(kept))
        return Value(given + self.weights[f"{name}.bias"] if bias else given, x.shape)

    def scan(self, x: Value, step: Value, b: Value, c: Value, layer: int, kind: Scan) -> Value:
        decay, skip = self.weights[f"{kind.at}.A_log"], self.weights[f"{kind.at}.D"]
        state, given = self._state("scan", layer), (step.tensor, b.tensor, c.tensor)
        if kind.by_number:
            decay = tf.reshape(decay, [kind.heads, kind.state])
            scanned, kept = scanned_by_number(x.tensor, *given, decay, tf.squeeze(state, -1))
            self._keep("scan", layer, kept[..., None])
            return Value(scanned + x.tensor * skip, x.shape)
        heads = tf.reshape(x.tensor, [self.tokens, kind.heads, -1])
        scanned, kept = scanned_by_head(heads, *given, decay, state)
        self._keep("scan", layer, kept)
        whole = scanned + heads * skip[None, :, None]
        return Value(tf.reshape(whole, [self.tokens, -1]), x.shape)

    def tap(self, x: Value, name: str) -> Value:
        if self.debug:
            self.taps[name] = tf.identity(x.tensor)
        return x

    def _state(self, kind: str, layer: int) -> Any:
        return tf.squeeze(self.given[state_name(kind, layer)], 0)

    def _keep(self, kind: str, layer: int, state: Any) -> None:
        self.caches[state_name(kind, layer)] = state[None]

    def _cached(self, layer: int, k: Any, v: Any) -> tuple[Any, Any]:
        """The caches with the new tokens in their slots. [1, G, S, d], [1, G, d, S]"""
        zero, here = tf.zeros([1], tf.int32), self.given["input_pos"][:1]
        starts = [zero, zero, here, zero], [zero, zero, zero, here]
        for name, new, start in zip(cache_names(layer), (k, v), starts, strict=True):
            self.caches[name] = gen_xla_ops.xla_dynamic_update_slice(
                input=self.given[name], update=new[None], indices=tf.concat(start, 0)
            )
        keys, values = (self.caches[name] for name in cache_names(layer))
        return keys, values

    def _mask(self, window: int | None) -> Any:
        """The host's mask, and the window's; made once. [1, 1, T, S]"""
        if window is None:
            return self.given["mask"]
        if window not in self.masks:
            slots = np.arange(self.context, dtype=np.int32)
            distance = self.given["input_pos"][:, None] - slots[None]
            far = tf.cast(distance >= window, tf.float32) * np.float32(HIDDEN)
            self.masks[window] = tf.minimum(self.given["mask"], far[None, None])
        return self.masks[window]

    def _table(self, rope: Rope) -> tuple[Any, Any]:
        """cos and sin at the positions, as every backend has them. [1, T, width / 2]"""
        if rope not in self.tables:
            tables = rope.table(np.arange(self.context))
            cos, sin = (tf.gather(table, self.given["input_pos"])[None] for table in tables)
            self.tables[rope] = cos, sin
        return self.tables[rope]


def _step(x: Any) -> Any:
    """1 where x is more than 0, 0 elsewhere."""
    return tf.minimum(tf.maximum(x * np.float32(MUCH), np.float32(0)), np.float32(1))
