"""Ops in NumPy, float32: the numbers that everything is compared with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from slmkit.models import registry
from slmkit.models.spec import Spec
from slmkit.ops import Attention, Expert, Floats, Ops, Rope, Routing, Scan, visible

Ids = NDArray[np.int64]


class Weights(Protocol):
    """Named weights, read on demand: the float checkpoint, or the codes of a recipe."""

    def vector(self, tensor: str) -> Floats:
        """A norm's weight or a bias, (width,)."""
        ...

    def rows(self, tensor: str, rows: Ids) -> Floats:
        """Some rows of a matrix, (len(rows), in)."""
        ...

    def blocks(self, tensor: str) -> Iterator[tuple[int, Floats]]:
        """A matrix in blocks of rows, (first row, block): never the whole of a large one."""
        ...


@dataclass
class Cache:
    """Keys and values of one sequence: per layer (p, G, d)."""

    keys: dict[int, Floats] = field(default_factory=dict)
    values: dict[int, Floats] = field(default_factory=dict)
    convolved: dict[int, Floats] = field(default_factory=dict)  # per layer (K - 1, D)
    scanned: dict[int, Floats] = field(default_factory=dict)  # per layer (H, N, P)
    length: int = 0

    def extend(self, layer: int, k: Floats, v: Floats) -> tuple[Floats, Floats]:
        """Append (T, G, d) to a layer and return all of it, (p + T, G, d)."""
        if layer in self.keys:
            k = np.concatenate([self.keys[layer], k])
            v = np.concatenate([self.values[layer], v])
        self.keys[layer], self.values[layer] = k, v
        return k, v


class Reference(Ops[Floats]):
    """Runs several sequences at once, one after the other along T; each has a cache of its own.

    All of them pass through one weight before the next is read, so a model of any size costs the
    memory of one block of one weight.
    """

    def __init__(
        self,
        weights: Weights,
        sequences: Sequence[Ids],
        caches: Sequence[Cache],
        debug: bool = False,
    ) -> None:
        self.weights = weights
        self.debug = debug  # keep what the model taps
        self.ids = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in sequences])
        self.caches = caches
        self.taps: dict[str, Floats] = {}
        lengths = [len(ids) for ids in sequences]
        ends = np.cumsum(lengths)
        self.spans = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        starts = [cache.length for cache in caches]
        self.positions = np.concatenate(
            [np.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)]
        )

    def embed(self, name: str, rows: int, width: int) -> Floats:
        return self.weights.rows(f"{name}.weight", self.ids)

    def linear(self, x: Floats, name: str, width: int, bias: bool = False) -> Floats:
        result = np.empty((len(x), width), dtype=np.float32)
        for first, block in self.weights.blocks(f"{name}.weight"):
            np.matmul(x, block.T, out=result[:, first : first + len(block)])
        if bias:
            result += self.weights.vector(f"{name}.bias")
        return result

    def rms_norm(self, x: Floats, name: str, eps: float) -> Floats:
        mean = np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float32)
        root = np.reciprocal(np.sqrt(mean + np.float32(eps)))
        normed: Floats = x * root * self.weights.vector(f"{name}.weight")
        return normed

    def split(self, x: Floats, widths: Sequence[int]) -> tuple[Floats, ...]:
        return tuple(np.split(x, np.cumsum(widths)[:-1], axis=-1))

    def split_heads(self, x: Floats, heads: int) -> Floats:
        return x.reshape(len(x), heads, -1)

    def rope(self, x: Floats, rope: Rope) -> Floats:
        cos, sin = (table[:, None, :] for table in rope.table(self.positions))  # (T, 1, width/2)
        a, b, rest = np.split(x, [rope.width // 2, rope.width], axis=-1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)

    def attend(self, q: Floats, k: Floats, v: Floats, layer: int, kind: Attention) -> Floats:
        parts = []
        for span, cache in zip(self.spans, self.caches, strict=True):
            keys, values = cache.extend(layer, k[span], v[span])
            parts.append(attention(q[span], keys, values, kind))
        return np.concatenate(parts)

    def add(self, x: Floats, y: Floats) -> Floats:
        return x + y

    def mul(self, x: Floats, y: Floats) -> Floats:
        return x * y

    def scale(self, x: Floats, by: float) -> Floats:
        return x * np.float32(by)

    def route(self, scores: Floats, routing: Routing) -> Floats:
        probabilities = np.exp(scores - scores.max(axis=-1, keepdims=True))
        probabilities /= probabilities.sum(axis=-1, keepdims=True)
        best = np.argsort(-probabilities, axis=-1, kind="stable")[:, : routing.chosen]
        weights: Floats = np.zeros_like(probabilities)
        np.put_along_axis(weights, best, np.take_along_axis(probabilities, best, axis=-1), axis=-1)
        if routing.normalized:
            weights /= weights.sum(axis=-1, keepdims=True)
        return weights

    def scale_by_column(self, x: Floats, weights: Floats, number: int) -> Floats:
        return x * weights[:, number : number + 1]

    def experts(
        self, x: Floats, scores: Floats, routing: Routing, experts: Sequence[Expert]
    ) -> Floats:
        """Only the weights of experts that some token chose are read."""
        weights, total = self.route(scores, routing), np.zeros_like(x)
        for number, each in enumerate(experts):
            tokens = np.flatnonzero(weights[:, number])
            if len(tokens):
                given = self.expert(x[tokens], each)
                total[tokens] += self.scale_by_column(given, weights[tokens], number)
        return total

    def add_bias(self, x: Floats, name: str) -> Floats:
        return x + self.weights.vector(name)

    def softplus(self, x: Floats) -> Floats:
        positive: Floats = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
        return positive

    def conv(self, x: Floats, name: str, kernel: int, layer: int, bias: bool) -> Floats:
        weight = self.weights.vector(f"{name}.weight").reshape(-1, kernel)
        parts = [
            convolution(x[span], weight, cache.convolved, layer)
            for span, cache in zip(self.spans, self.caches, strict=True)
        ]
        whole = np.concatenate(parts)
        return whole + self.weights.vector(f"{name}.bias") if bias else whole

    def scan(self, x: Floats, step: Floats, b: Floats, c: Floats, layer: int, kind: Scan) -> Floats:
        decay = self.weights.vector(f"{kind.at}.A_log").reshape(kind.heads, -1, 1)
        skip = self.weights.vector(f"{kind.at}.D")[:, None]
        parts = []
        for span, cache in zip(self.spans, self.caches, strict=True):
            heads = x[span].reshape(-1, kind.heads, x.shape[1] // kind.heads)
            given, state = selective_scan(
                heads, step[span], b[span], c[span], decay, cache.scanned.get(layer)
            )
            cache.scanned[layer] = state
            parts.append((given + skip * heads).reshape(len(given), -1))
        return np.concatenate(parts)

    def tap(self, x: Floats, name: str) -> Floats:
        if self.debug:
            self.taps[name] = x
        return x

    def sigmoid(self, x: Floats) -> Floats:
        with np.errstate(over="ignore"):  # exp(-x) = inf gives the right limit, 0
            probabilities: Floats = np.float32(1) / (np.float32(1) + np.exp(-x))
            return probabilities

    def tanh(self, x: Floats) -> Floats:
        bent: Floats = np.tanh(x)
        return bent

    def gelu_tanh(self, x: Floats) -> Floats:
        inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
        return self.mul(np.float32(0.5) * x, np.float32(1) + self.tanh(inner))


class Rounded(Reference):
    """The same with activations rounded to 8 bits before each quantized linear, as XNNPACK's
    kernels do (``qd8``): per token, over its own range, which holds 0, with a zero point."""

    def linear(self, x: Floats, name: str, width: int, bias: bool = False) -> Floats:
        schemes = getattr(self.weights, "schemes", {})
        quantized = name in schemes and schemes[name].bits is not None
        return super().linear(round_rows(x) if quantized else x, name, width, bias)


def round_rows(x: Floats) -> Floats:
    """Each row on a grid of 256 steps from its least to its largest number, 0 among them.

    The zero point is the one whose rounding errs less at the two ends; source: XNNPACK's
    xnn_compute_qd8 parameters (``src/xnnpack/quantization.h``).
    """
    low = np.minimum(x.min(axis=1, keepdims=True), np.float32(0))
    high = np.maximum(x.max(axis=1, keepdims=True), np.float32(0))
    scale = ((high - low) / np.float32(255)).astype(np.float32)
    scale = np.where(scale == 0, np.float32(1), scale)
    from_low, from_high = -128 - low / scale, 127 - high / scale
    zero = np.where(from_low + from_high > 0, from_low, from_high)
    zero = np.clip(np.rint(zero), -128, 127)
    codes = np.clip(np.rint(x / scale + zero), -128, 127)
    rounded: Floats = ((codes - zero) * scale).astype(np.float32)
    return rounded


def attention(q: Floats, keys: Floats, values: Floats, kind: Attention) -> Floats:
    """Causal attention of the last T of S tokens. (T, H, d), (S, G, d) twice -> (T, H * d)"""
    tokens, heads, width = q.shape
    total, kv_heads, _ = keys.shape
    grouped = q.reshape(tokens, kv_heads, heads // kv_heads, width).transpose(1, 2, 0, 3)
    scores = grouped @ keys.transpose(1, 2, 0)[:, None] * np.float32(kind.scale)  # (G, H/G, T, S)
    if kind.cap is not None:
        scores = np.tanh(scores / np.float32(kind.cap)) * np.float32(kind.cap)
    positions = np.arange(total)
    mask = visible(positions[total - tokens :], positions, kind.window)
    scores = np.where(mask, scores, np.float32(-np.inf))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed = weights @ values.transpose(1, 0, 2)[:, None]  # (G, H/G, T, d)
    joined: Floats = mixed.transpose(2, 0, 1, 3).reshape(tokens, heads * width)
    return joined


def convolution(x: Floats, weight: Floats, states: dict[int, Floats], layer: int) -> Floats:
    """Causal, each channel by itself; the state moves on. (T, D), (D, K) -> (T, D)"""
    kernel = weight.shape[1]
    before = states.get(layer, np.zeros((kernel - 1, x.shape[1]), np.float32))
    line = np.concatenate([before, x])
    states[layer] = line[len(line) - kernel + 1 :]
    total = np.zeros_like(x)
    for at in range(kernel):
        total += line[at : at + len(x)] * weight[:, at]
    return total


def selective_scan(
    x: Floats, step: Floats, b: Floats, c: Floats, decay: Floats, state: Floats | None
) -> tuple[Floats, Floats]:
    """(T, H, P), (T, H), (T, N), (T, N), (H, N or 1, 1) -> (T, H, P), and the state (H, N, P)"""
    if state is None:
        state = np.zeros((x.shape[1], b.shape[1], x.shape[2]), np.float32)
    given = np.empty_like(x)
    for token in range(len(x)):
        faded = np.exp(step[token][:, None, None] * decay) * state
        state = faded + b[token][:, None] * (step[token][:, None] * x[token])[:, None]
        given[token] = np.einsum("n,hnp->hp", c[token], state)
    return given, state


def logits(
    weights: Weights,
    spec: Spec,
    sequences: Sequence[Ids],
    caches: Sequence[Cache] | None = None,
    kind: type[Reference] = Reference,
) -> list[Floats]:
    """Logits of each sequence, (T, V); with ``caches``, as a continuation, which extends them."""
    caches = [Cache() for _ in sequences] if caches is None else caches
    reference = kind(weights, sequences, caches)
    result = registry.run(reference, spec)
    for cache, span in zip(caches, reference.spans, strict=True):
        cache.length += span.stop - span.start
    return [result[span] for span in reference.spans]


def taps(weights: Weights, spec: Spec, ids: Ids) -> dict[str, Floats]:
    """What the architecture taps while it reads one sequence: name -> (T, width)."""
    reference = Reference(weights, [ids], [Cache()], debug=True)
    result = registry.run(reference, spec)
    return {**reference.taps, "logits": result}
