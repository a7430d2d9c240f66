"""The vocabulary: the words in which every architecture is written and every backend listens.

Shape key, used everywhere
    T tokens        D width            V vocabulary     F feed-forward width
    H query heads   G kv heads         d head width     L layers         E experts
    N state         P channels of a scan's head         K kernel of a convolution

A model names its weights (the checkpoint's own names, without ``.weight``) and never sees one.
Token ids, positions, masks and the KV cache belong to the interpreter.
A model may branch on its spec, never on a value ``V``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

V = TypeVar("V")
Floats = NDArray[np.float32]
Positions = NDArray[np.int64]  # of tokens in their sequence, from 0

# Ops that every backend has. One that a model needs and only some backends have is not listed:
# these name it in their ``Support``, and all others refuse the model.
COMMON_OPS = frozenset(
    {
        "embed",
        "linear",
        "rms_norm",
        "split",
        "split_heads",
        "rope",
        "attend",
        "add",
        "mul",
        "scale",
        "sigmoid",
        "tanh",
        "gelu_tanh",
        "silu",
        "route",
        "scale_by_column",
        "add_bias",
        "softplus",
        "conv",
        "scan",
    }
)


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding, rotate-half form (GPT-NeoX order, as Hugging Face writes it).

    ``frequencies``: one per pair of channels, in radians per position. Where 2 * len(frequencies)
    is less than d, the first so many channels of a head rotate and the others stay.
    ``magnitude``: cos and sin are multiplied by it (1.0 unless a scaling kind asks for more).
    """

    frequencies: tuple[float, ...]
    magnitude: float = 1.0

    @property
    def width(self) -> int:
        """How many channels of a head rotate."""
        return 2 * len(self.frequencies)

    def table(self, positions: Sequence[int] | Positions) -> tuple[Floats, Floats]:
        """cos and sin, each (T, width / 2) float32.

        Angles are rounded to float32 before cos and sin, as transformers does: every backend
        takes its table from here, so that all of them round alike.
        """
        position = np.asarray(positions, dtype=np.float32)
        angles = np.outer(position, np.asarray(self.frequencies, dtype=np.float32))
        magnitude = np.float32(self.magnitude)
        return np.cos(angles) * magnitude, np.sin(angles) * magnitude


@dataclass(frozen=True)
class Attention:
    """What one layer's attention is, beyond its inputs.

    ``scale`` multiplies q.k before the softmax.
    ``window``: a token sees itself and the ``window - 1`` tokens before it; None: all before it.
    ``cap``: scaled scores s become cap * tanh(s / cap), before the mask; None: they stay.
    """

    scale: float
    window: int | None = None
    cap: float | None = None


def visible(queries: Positions, keys: Positions, window: int | None) -> NDArray[np.bool_]:
    """The causal mask, (T, S): True where the query at position q may attend to the key at k.

    That is 0 <= q - k, and q - k < ``window`` if there is one. A negative k marks an empty slot
    of a KV cache, which no query attends to.
    """
    distance = queries[:, None] - keys[None, :]
    seen: NDArray[np.bool_] = (distance >= 0) & (keys[None, :] >= 0)
    return seen if window is None else seen & (distance < window)


@dataclass(frozen=True)
class Projection:
    """One linear of several that read the same values."""

    name: str
    width: int
    bias: bool = False


@dataclass(frozen=True)
class Expert:
    """One of E gated mlps, by its weights' names: down(silu(gate(x)) * up(x)). ``gate_up``: gate
    and up, F rows each, or one weight of 2F rows that holds both, gate first."""

    gate_up: tuple[str, ...]
    down: str
    feed_forward: int  # F
    width: int  # D


@dataclass(frozen=True)
class Routing:
    """The best ``chosen`` of a softmax over scores; ``normalized``: divided by their sum."""

    chosen: int
    normalized: bool


@dataclass(frozen=True)
class Scan:
    """A selective scan of the tensors ``at.A_log`` (A: (H, N) if ``by_number``, else (H,)) and
    ``at.D`` (H,)."""

    at: str
    heads: int  # H
    state: int  # N
    by_number: bool


class Ops(ABC, Generic[V]):
    """One definition, many interpreters: NumPy, ONNX, ... each gives these words a body."""

    # Primitives: every interpreter gives them.

    @abstractmethod
    def embed(self, name: str, rows: int, width: int) -> V:
        """Rows of table ``name`` (V, D) for the interpreter's token ids. -> (T, D)"""

    @abstractmethod
    def linear(self, x: V, name: str, width: int, bias: bool = False) -> V:
        """x @ weight.T (+ bias), accumulated in float32 or wider. (T, in) -> (T, width)

        The weight is stored (width, in), as in the checkpoint; the bias is ``name.bias``.
        """

    @abstractmethod
    def rms_norm(self, x: V, name: str, eps: float) -> V:
        """x / sqrt(mean(x^2) + eps) * weight over the last axis; eps in the root. Same shape."""

    @abstractmethod
    def split(self, x: V, widths: Sequence[int]) -> tuple[V, ...]:
        """(T, D) in parts of these widths, one after the other, which fill D."""

    @abstractmethod
    def split_heads(self, x: V, heads: int) -> V:
        """(T, heads * d) -> (T, heads, d)"""

    @abstractmethod
    def rope(self, x: V, rope: Rope) -> V:
        """Rotate each head by its token's position, rotate-half. (T, H, d) -> (T, H, d)"""

    @abstractmethod
    def attend(self, q: V, k: V, v: V, layer: int, kind: Attention) -> V:
        """Causal attention over this layer's KV cache and these tokens, which join the cache.

        (T, H, d), (T, G, d), (T, G, d) -> (T, H * d). Query head h reads kv head h // (H / G).
        Softmax in float32.
        """

    @abstractmethod
    def add(self, x: V, y: V) -> V:
        """Element-wise sum of equal shapes."""

    @abstractmethod
    def mul(self, x: V, y: V) -> V:
        """Element-wise product of equal shapes."""

    @abstractmethod
    def scale(self, x: V, by: float) -> V:
        """x * by. Same shape."""

    @abstractmethod
    def sigmoid(self, x: V) -> V:
        """1 / (1 + exp(-x)). Same shape."""

    @abstractmethod
    def tanh(self, x: V) -> V:
        """Hyperbolic tangent. Same shape."""

    @abstractmethod
    def gelu_tanh(self, x: V) -> V:
        """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))). Same shape."""

    @abstractmethod
    def route(self, scores: V, routing: Routing) -> V:
        """Weights of E experts out of their scores, in float32. (T, E) -> (T, E)"""

    @abstractmethod
    def scale_by_column(self, x: V, weights: V, number: int) -> V:
        """x times one column of weights. (T, D), (T, E) -> (T, D)"""

    # Of layers that scan: an interpreter without them refuses such a model by its list of ops.
    def add_bias(self, x: V, name: str) -> V:
        """x + the vector ``name`` (no ending). Same shape."""
        raise NotImplementedError("add_bias")

    def softplus(self, x: V) -> V:
        """log(1 + exp(x)), in float32. Same shape."""
        raise NotImplementedError("softplus")

    def conv(self, x: V, name: str, kernel: int, layer: int, bias: bool) -> V:
        """Causal depthwise convolution over the tokens before and these: out[t, d] is the sum of
        weight[d, j] * x[t - K + 1 + j, d] over j, plus bias[d]. (T, D) -> (T, D)
        The weight is stored (D, 1, K). The layer's state is the last K - 1 tokens' x.
        """
        raise NotImplementedError("conv")

    def scan(self, x: V, step: V, b: V, c: V, layer: int, kind: Scan) -> V:
        """Over the layer's state s (H, N, P), token by token, in float32:
        s[h, n] = exp(step[h] * A[h, n]) * s[h, n] + step[h] * b[n] * x[h]
        y[h] = sum over n of c[n] * s[h, n] + D[h] * x[h]

        (T, H * P), (T, H), (T, N), (T, N) -> (T, H * P). Source: Gu and Dao 2023, equations 2, 4.
        """
        raise NotImplementedError("scan")

    # Composites: a body in terms of primitives; overridden where a runtime has the op natively.

    def linears(self, x: V, projections: Sequence[Projection]) -> tuple[V, ...]:
        """Several linears of the same x: one kernel where a runtime gains from it."""
        return tuple(self.linear(x, each.name, each.width, each.bias) for each in projections)

    def add_norm(self, x: V, y: V, name: str, eps: float) -> tuple[V, V]:
        """The sum of x and y, and its RMS norm: the step between two halves of a layer."""
        total = self.add(x, y)
        return total, self.rms_norm(total, name, eps)

    def silu(self, x: V) -> V:
        """x * sigmoid(x). Same shape."""
        return self.mul(x, self.sigmoid(x))

    def soft_cap(self, x: V, cap: float) -> V:
        """cap * tanh(x / cap). Same shape."""
        return self.scale(self.tanh(self.scale(x, 1 / cap)), cap)

    def rotary_attention(self, q: V, k: V, v: V, layer: int, rope: Rope, kind: Attention) -> V:
        """Rotate q and k, then attend. Shapes as ``attend``."""
        return self.attend(self.rope(q, rope), self.rope(k, rope), v, layer, kind)

    def tap(self, x: V, name: str) -> V:
        """Mark an intermediate by name: nothing in a normal build, an output in a debug build."""
        return x

    def experts(self, x: V, scores: V, routing: Routing, experts: Sequence[Expert]) -> V:
        """Each token through its chosen experts: the sum of what they give, times their weights.

        (T, D), (T, E) -> (T, D). This body computes all of them, for graphs that cannot branch.
        """
        weights = self.route(scores, routing)
        given = [
            self.scale_by_column(self.expert(x, each), weights, at)
            for at, each in enumerate(experts)
        ]
        return reduce(self.add, given)

    def expert(self, x: V, expert: Expert) -> V:
        """One of them. (T, D) -> (T, D)"""
        wide = expert.feed_forward
        if len(expert.gate_up) == 1:
            gate, up = self.split(self.linear(x, expert.gate_up[0], 2 * wide), (wide, wide))
        else:
            gate, up = self.linears(x, [Projection(name, wide) for name in expert.gate_up])
        return self.linear(self.mul(self.silu(gate), up), expert.down, expert.width)
