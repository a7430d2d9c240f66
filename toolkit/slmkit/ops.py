"""The op vocabulary: architectures are written in these ops, interpreters implement them.

Shape key, used everywhere
    T tokens        D width            V vocabulary     F feed-forward width
    H query heads   G kv heads         d head width     L layers         E experts
    N state         P channels of a scan's head         K kernel of a convolution
    S tokens in the KV cache, those of this call included

A model refers to a weight by its name in the checkpoint, without ``.weight``, and never reads it.
Token ids, positions, masks, the KV cache and recurrent states belong to the interpreter.
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


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding, rotate-half form (GPT-NeoX order, as Hugging Face writes it).

    ``frequencies``: radians per position, one per pair of channels. The first
    2 * len(frequencies) channels of a head rotate; further ones pass through (partial rotary).
    ``magnitude``: factor on cos and sin; 1.0 except for longrope (its attention factor).
    """

    frequencies: tuple[float, ...]
    magnitude: float = 1.0

    @property
    def width(self) -> int:
        """Number of channels of a head that rotate."""
        return 2 * len(self.frequencies)

    def table(self, positions: Sequence[int] | Positions) -> tuple[Floats, Floats]:
        """cos and sin of the angles at ``positions`` (T,), each (T, width / 2) float32.

        Angles are rounded to float32 before cos and sin, as in transformers. Every backend takes
        its tables from here, so that all of them round alike.
        """
        position = np.asarray(positions, dtype=np.float32)
        angles = np.outer(position, np.asarray(self.frequencies, dtype=np.float32))
        magnitude = np.float32(self.magnitude)
        return np.cos(angles) * magnitude, np.sin(angles) * magnitude


NO_ROPE = Rope(())  # of models and layers without position embedding (NoPE)


@dataclass(frozen=True)
class Attention:
    """Parameters of one layer's attention.

    ``scale``: factor on q.k before the softmax.
    ``window``: sliding window; a token attends to itself and the ``window - 1`` tokens before it.
    None: to all before it.
    ``cap``: soft cap; scaled scores s become cap * tanh(s / cap) before the mask. None: no cap.
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
    """One of several linears with the same input: weight name, output width, bias or not."""

    name: str
    width: int
    bias: bool = False


@dataclass(frozen=True)
class Expert:
    """Weight names and widths of one expert, a gated mlp: down(silu(gate(x)) * up(x)).

    ``gate_up``: the names of gate and up, (F, D) each, or of one fused (2F, D) weight, gate first.
    """

    gate_up: tuple[str, ...]
    down: str
    feed_forward: int  # F
    width: int  # D


@dataclass(frozen=True)
class Routing:
    """Top-k routing: the ``chosen`` largest softmax probabilities of the router's E scores.

    ``normalized``: divide the selected probabilities by their sum.
    """

    chosen: int
    normalized: bool


@dataclass(frozen=True)
class Scan:
    """Parameters of a selective scan.

    Its tensors are ``at.A_log``, (H, N) if ``by_number`` (Mamba), else (H,) (Mamba-2), and
    ``at.D`` (H,). Reading ``at.A_log`` gives A = -exp(A_log): models/weight_transforms.py.
    """

    at: str
    heads: int  # H
    state: int  # N
    by_number: bool


class Ops(ABC, Generic[V]):
    """The interface of an interpreter; ``V`` is its type of value (an array, a graph tensor).

    Primitives are abstract: each interpreter implements them. Composites have a default body.
    """

    # Primitives.

    @abstractmethod
    def embed(self, name: str, rows: int, width: int) -> V:
        """Rows of table ``name`` (rows, width) at the interpreter's token ids. -> (T, width)"""

    @abstractmethod
    def linear(self, x: V, name: str, width: int, bias: bool = False) -> V:
        """x @ weight.T (+ bias), accumulated in float32 or wider. (T, in) -> (T, width)

        The weight is stored (width, in), as in the checkpoint; the bias is ``name.bias``.
        """

    @abstractmethod
    def rms_norm(self, x: V, name: str, eps: float) -> V:
        """x / sqrt(mean(x^2) + eps) * weight over the last axis. Same shape.

        Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
        """

    @abstractmethod
    def split(self, x: V, widths: Sequence[int]) -> tuple[V, ...]:
        """Split the last axis into consecutive parts; ``widths`` add up to D. (T, D)"""

    @abstractmethod
    def split_heads(self, x: V, heads: int) -> V:
        """(T, heads * d) -> (T, heads, d)"""

    @abstractmethod
    def rope(self, x: V, rope: Rope) -> V:
        """Rotary position embedding of each head, rotate-half. (T, H, d) -> (T, H, d)

        Source: Su et al. 2021, "RoFormer".
        """

    @abstractmethod
    def attend(self, q: V, k: V, v: V, layer: int, kind: Attention) -> V:
        """Append k and v to the layer's KV cache; causal attention of q over all of it.

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
        """Weights of the experts from the router's scores, in float32. (T, E) -> (T, E)

        The weight of an expert outside the top k is 0.
        """

    @abstractmethod
    def scale_by_column(self, x: V, weights: V, number: int) -> V:
        """x * weights[:, number : number + 1]. (T, D), (T, E) -> (T, D)"""

    # Primitives of Mamba and LFM2. A backend without them refuses models that use them.
    def add_bias(self, x: V, name: str) -> V:
        """x + the vector ``name``, the tensor's whole name. Same shape."""
        raise NotImplementedError("add_bias")

    def softplus(self, x: V) -> V:
        """log(1 + exp(x)), in float32. Same shape."""
        raise NotImplementedError("softplus")

    def conv(self, x: V, name: str, kernel: int, layer: int, bias: bool) -> V:
        """Causal depthwise convolution along T. (T, D) -> (T, D)

        out[t, d] = sum over j of weight[d, j] * x[t - K + 1 + j, d], plus ``name.bias`` [d].
        The weight is stored (D, 1, K). The layer's recurrent state is x of the last K - 1 tokens.
        """
        raise NotImplementedError("conv")

    def scan(self, x: V, step: V, b: V, c: V, layer: int, kind: Scan) -> V:
        """Selective scan. (T, H * P), (T, H), (T, N), (T, N) -> (T, H * P)

        Token by token, in float32, over the layer's recurrent state s (H, N, P):
        s[h, n] = exp(step[h] * A[h, n]) * s[h, n] + step[h] * b[n] * x[h]
        y[h] = sum over n of c[n] * s[h, n] + D[h] * x[h]
        Source: Gu and Dao 2023, "Mamba", equations 2 and 4.
        """
        raise NotImplementedError("scan")

    # Composites, in terms of primitives. A backend overrides one that its runtime has natively.

    def linears(self, x: V, projections: Sequence[Projection]) -> tuple[V, ...]:
        """Linears of the same x; a backend may fuse them. (T, in) -> (T, width) for each"""
        return tuple(self.linear(x, each.name, each.width, each.bias) for each in projections)

    def add_norm(self, x: V, y: V, name: str, eps: float) -> tuple[V, V]:
        """Residual addition and the next sublayer's norm: x + y and its RMS norm. Same shapes."""
        total = self.add(x, y)
        return total, self.rms_norm(total, name, eps)

    def post_norm(self, x: V, name: str, eps: float) -> V:
        """The norm of a sublayer's output, which is added to the residual stream. Same shape."""
        return self.rms_norm(x, name, eps)

    def gated_product(self, x: V, y: V) -> V:
        """The product that a gated mlp's down projection reads. Same shapes."""
        return self.mul(x, y)

    def silu(self, x: V) -> V:
        """x * sigmoid(x). Same shape."""
        return self.mul(x, self.sigmoid(x))

    def soft_cap(self, x: V, cap: float) -> V:
        """cap * tanh(x / cap). Same shape."""
        return self.scale(self.tanh(self.scale(x, 1 / cap)), cap)

    def rotary_attention(self, q: V, k: V, v: V, layer: int, rope: Rope, kind: Attention) -> V:
        """``rope`` of q and k, then ``attend``, with its shapes."""
        return self.attend(self.rope(q, rope), self.rope(k, rope), v, layer, kind)

    def tap(self, x: V, name: str) -> V:
        """Name an intermediate value: an extra output of debug builds, nothing otherwise."""
        return x

    def experts(self, x: V, scores: V, routing: Routing, experts: Sequence[Expert]) -> V:
        """Sum of the experts' outputs, times their routing weights. (T, D), (T, E) -> (T, D)

        This body computes every expert for every token, for graphs that cannot branch.
        """
        weights = self.route(scores, routing)
        pairs = enumerate(experts)
        outputs = [self.scale_by_column(self.expert(x, each), weights, at) for at, each in pairs]
        return reduce(self.add, outputs)

    def expert(self, x: V, expert: Expert) -> V:
        """The gated mlp of one expert. (T, D) -> (T, D)"""
        width = expert.feed_forward
        if len(expert.gate_up) == 1:
            fused = self.linear(x, expert.gate_up[0], 2 * width)
            gate, up = self.split(fused, (width, width))
        else:
            gate, up = self.linears(x, [Projection(name, width) for name in expert.gate_up])
        return self.linear(self.gated_product(self.silu(gate), up), expert.down, expert.width)
