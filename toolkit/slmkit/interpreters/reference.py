"""The reference: ops in NumPy float32, the numbers that every artifact is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from slmkit.interpreters import kernels
from slmkit.interpreters.kernels import attention, convolution, round_to_int8, selective_scan
from slmkit.models import registry
from slmkit.models.spec import Spec
from slmkit.ops import Attention, Expert, Floats, Ops, Rope, Routing, Scan

Ids = NDArray[np.int64]


class Weights(Protocol):
    """Weights by tensor name, float32, read on demand: a checkpoint's, or a codes file's."""

    def vector(self, tensor: str) -> Floats:
        """A norm, bias or other vector, flat."""
        ...

    def rows(self, tensor: str, rows: Ids) -> Floats:
        """Rows ``rows`` of a matrix, (len(rows), in)."""
        ...

    def blocks(self, tensor: str) -> Iterator[tuple[int, Floats]]:
        """A matrix as consecutive blocks of rows: (first row, block)."""
        ...


@dataclass
class Cache:
    """KV cache and recurrent states of one sequence, by layer."""

    keys: dict[int, Floats] = field(default_factory=dict)  # (S, G, d)
    values: dict[int, Floats] = field(default_factory=dict)  # (S, G, d)
    conv_states: dict[int, Floats] = field(default_factory=dict)  # (K - 1, D)
    scan_states: dict[int, Floats] = field(default_factory=dict)  # (H, N, P)
    length: int = 0  # tokens so far

    def copy(self) -> Cache:
        """The same state, which later tokens of the original leave alone: arrays are replaced,
        never written."""
        return Cache(
            dict(self.keys),
            dict(self.values),
            dict(self.conv_states),
            dict(self.scan_states),
            self.length,
        )

    def extend(self, layer: int, k: Floats, v: Floats) -> tuple[Floats, Floats]:
        """Append k and v (T, G, d) to a layer; returns all its keys and values, (S, G, d)."""
        if layer in self.keys:
            k = np.concatenate([self.keys[layer], k])
            v = np.concatenate([self.values[layer], v])
        self.keys[layer], self.values[layer] = k, v
        return k, v


class Reference(Ops[Floats]):
    """Runs several sequences at once, concatenated along T; each has its own cache.

    All of them pass through one weight before the next is read, so a model of any size needs the
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
        self.debug = debug  # record ``taps``
        self.ids = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in sequences])
        self.caches = caches
        self.taps: dict[str, Floats] = {}
        self.tokens: Ids | slice = slice(None)  # those that are computed: an expert has few
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
        normed: Floats = x * root
        normed *= self.weights.vector(f"{name}.weight")
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
        outputs = []
        for span, cache in zip(self.spans, self.caches, strict=True):
            keys, values = cache.extend(layer, k[span], v[span])
            outputs.append(attention(q[span], keys, values, kind))
        return np.concatenate(outputs)

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
        """Computes an expert for the tokens routed to it; weights of idle experts stay unread."""
        weights, total = self.route(scores, routing), np.zeros_like(x)
        for number, expert in enumerate(experts):
            tokens = np.flatnonzero(weights[:, number])
            if len(tokens):
                self.tokens = tokens
                output = self.expert(x[tokens], expert)
                total[tokens] += self.scale_by_column(output, weights[tokens], number)
        self.tokens = slice(None)
        return total

    def add_bias(self, x: Floats, name: str) -> Floats:
        return x + self.weights.vector(name)

    def softplus(self, x: Floats) -> Floats:
        result: Floats = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))  # exp cannot overflow
        return result

    def conv(self, x: Floats, name: str, kernel: int, layer: int, bias: bool) -> Floats:
        weight = self.weights.vector(f"{name}.weight").reshape(-1, kernel)
        outputs = [
            convolution(x[span], weight, cache.conv_states, layer)
            for span, cache in zip(self.spans, self.caches, strict=True)
        ]
        result = np.concatenate(outputs)
        return result + self.weights.vector(f"{name}.bias") if bias else result

    def scan(self, x: Floats, step: Floats, b: Floats, c: Floats, layer: int, kind: Scan) -> Floats:
        decay = self.weights.vector(f"{kind.at}.A_log").reshape(kind.heads, -1, 1)
        skip = self.weights.vector(f"{kind.at}.D")[:, None]
        outputs = []
        for span, cache in zip(self.spans, self.caches, strict=True):
            heads = x[span].reshape(-1, kind.heads, x.shape[1] // kind.heads)
            y, state = selective_scan(
                heads, step[span], b[span], c[span], decay, cache.scan_states.get(layer)
            )
            cache.scan_states[layer] = state
            outputs.append((y + skip * heads).reshape(len(y), -1))
        return np.concatenate(outputs)

    def tap(self, x: Floats, name: str) -> Floats:
        if self.debug:
            self.taps[name] = x
        return x

    def sigmoid(self, x: Floats) -> Floats:
        return kernels.by_blocks(kernels.sigmoid, x)

    def silu(self, x: Floats) -> Floats:
        return kernels.by_blocks(kernels.silu, x)

    def tanh(self, x: Floats) -> Floats:
        result: Floats = np.tanh(x)
        return result

    def gelu_tanh(self, x: Floats) -> Floats:
        return kernels.by_blocks(kernels.gelu_tanh, x)


class Rounded(Reference):
    """The reference with dynamic int8 activations: the input of each quantized linear is rounded.

    As XNNPACK's ``qd8`` kernels do: asymmetric, one scale and zero point per token. Outlier
    channels (``slmkit.activations.outliers``) and the parts of an input
    (``slmkit.activations.input_parts``) are rounded apart from each other.
    """

    def linear(self, x: Floats, name: str, width: int, bias: bool = False) -> Floats:
        schemes = getattr(self.weights, "schemes", {})
        quantized = name in schemes and schemes[name].bits is not None
        if quantized:
            outliers = getattr(self.weights, "outliers", {}).get(name, ())
            parts = getattr(self.weights, "input_parts", {}).get(name, 1)
            x = round_to_int8(x, outliers, parts)
        return super().linear(x, name, width, bias)


def logits(
    weights: Weights,
    spec: Spec,
    sequences: Sequence[Ids],
    caches: Sequence[Cache] | None = None,
    kind: Callable[[Weights, Sequence[Ids], Sequence[Cache]], Reference] = Reference,
) -> list[Floats]:
    """Logits of each sequence, (T, V).

    ``caches``: one per sequence, which the sequences continue and extend; new ones by default.
    ``kind``: the reference's arithmetic.
    """
    caches = [Cache() for _ in sequences] if caches is None else caches
    reference = kind(weights, sequences, caches)
    result = registry.run(reference, spec)
    for cache, span in zip(caches, reference.spans, strict=True):
        cache.length += span.stop - span.start
    return [result[span] for span in reference.spans]


def taps(weights: Weights, spec: Spec, ids: Ids) -> dict[str, Floats]:
    """Values named by ``Ops.tap`` for one sequence (T,), and the logits: name -> (T, width)."""
    reference = Reference(weights, [ids], [Cache()], debug=True)
    result = registry.run(reference, spec)
    return {**reference.taps, "logits": result}
