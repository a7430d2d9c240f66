"""The vocabulary as Relax operations: the interpreter of the ``mlc`` artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tvm import relax
from tvm.relax.frontend.nn import Tensor
from tvm.relax.frontend.nn.llm.kv_cache import PagedKVCache

from slmkit.backend.interface import Model
from slmkit.ops import Attention, Expert, Ops, Projection, Rope, Routing, Scan
from slmkit_mlc.contract import KV, RECURRENT
from slmkit_mlc.kernels import dense, scan
from slmkit_mlc.kernels import moe as chosen
from slmkit_mlc.lowering.kv_cache import cache_rope
from slmkit_mlc.lowering.recurrent_state import States
from slmkit_mlc.params import Matrix, Table

Expr = Any  # a Relax expression
Weights = Callable[[str], Expr]  # a parameter by name
Select = Callable[[Expr], Expr]  # the tokens whose logits are wanted


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor: (D,) lies as [b, T, D], (H, d) as [b, T, H, d].

    ``whole``: the joined matrix's output of which it is part number ``number``.
    """

    tensor: Expr
    shape: tuple[int, ...]
    whole: Expr | None = None
    number: int = 0

    @property
    def dtype(self) -> str:
        """The type of its numbers."""
        return str(self.tensor.ty.dtype)


def _are_one(*parts: Value) -> bool:
    """Whether these are all parts of one joined matrix's output, in their order."""
    whole = parts[0].whole
    return whole is not None and all(
        each.whole is whole and each.number == at for at, each in enumerate(parts)
    )


@dataclass(frozen=True, eq=False)
class Step:
    """One function of the library, as the interpreter sees it."""

    embeddings: Expr  # [b, T, D]
    kept: Mapping[str, Expr]  # the KV cache and the recurrent states, as far as there are any
    weights: Weights
    select: Select | None = None  # None: every token's logits
    ends: Expr | None = None  # the last token of each sequence; None: each row is a sequence


class MlcOps(Ops[Value]):
    """Writes one function into the block builder's open dataflow block."""

    def __init__(
        self,
        bb: relax.BlockBuilder,
        model: Model,
        table: Table,
        dtype: str,
        step: Step,
        debug: bool = False,
    ) -> None:
        self.bb, self.model, self.table, self.dtype, self.step = bb, model, table, dtype, step
        self.cache = PagedKVCache(_expr=step.kept.get(KV), _name="cache")
        self.states = States(bb, model, step.kept.get(RECURRENT))
        self.taps: dict[str, Expr] = {}
        self.debug = debug

    def embed(self, name: str, rows: int, width: int) -> Value:
        """The app looked the rows up before, with the function ``embed``."""
        return Value(self.step.embeddings, (width,))

    def linear(self, x: Value, name: str, width: int, bias: bool = False) -> Value:
        vectors = self.table.vectors
        each = self._weight(vectors[f"{name}.bias"].name) if bias else None
        return self._product(x, self.table.matrices[name], each, name)

    def linears(self, x: Value, projections: Sequence[Projection]) -> tuple[Value, ...]:
        """One kernel where they are stored as one matrix; its parts know the whole."""
        joined = self.table.joined(tuple(each.name for each in projections))
        if joined is None:
            return super().linears(x, projections)
        biases = self.table.vectors.get(f"{projections[0].name}.bias")
        whole = self._product(x, joined, self._weight(biases.name) if biases else None, "")
        return self.split(whole, [each.width for each in projections])

    def rms_norm(self, x: Value, name: str, eps: float) -> Value:
        weight = self._weight(self.table.vectors[f"{name}.weight"].name)
        normed = partial(dense.rms_norm, eps, self.dtype)
        return Value(self._te(normed, x.tensor, weight), x.shape)

    def split_heads(self, x: Value, heads: int) -> Value:
        shape = heads, x.shape[0] // heads
        return Value(self._shaped(x.tensor, *shape), shape, x.whole, x.number)

    def split(self, x: Value, widths: Sequence[int]) -> tuple[Value, ...]:
        found, first = [], 0
        for number, width in enumerate(widths):
            part = self._te(dense.part, x.tensor, first, width)
            found.append(Value(part, (width,), x.tensor, number))
            first += width
        return tuple(found)

    def rope(self, x: Value, rope: Rope) -> Value:
        """Of a model with several ropes; the only one of others is the KV cache's business."""
        batch, tokens = x.tensor.ty.shape[0], x.tensor.ty.shape[1]
        positions = self.cache.get_query_positions(batch * tokens)._expr
        frequencies = relax.const(np.asarray(rope.frequencies, np.float32))
        turned = partial(dense.rotated, rope.magnitude)
        rotated = self.bb.emit_te(
            turned, x.tensor, positions, frequencies, primfunc_name_hint="rotated"
        )
        return Value(rotated, x.shape)

    def rotary_attention(
        self, q: Value, k: Value, v: Value, layer: int, rope: Rope, kind: Attention
    ) -> Value:
        """The KV cache rotates by the model's only rope; by one of several, the program does."""
        if cache_rope(self.model.spec) == rope:
            return self.attend(q, k, v, layer, kind)
        return super().rotary_attention(q, k, v, layer, rope, kind)

    def attend(self, q: Value, k: Value, v: Value, layer: int, kind: Attention) -> Value:
        """The KV cache splits q, k and v apart, rotates if it must, keeps and attends."""
        heads, width = q.shape
        if _are_one(q, k, v):
            qkv = self._shaped(q.whole, heads + 2 * k.shape[0], width)
        else:
            qkv = self._te(dense.heads_joined, q.tensor, k.tensor, v.tensor)
        place, joined = self.model.attention_layers.index(layer), Tensor(_expr=qkv)
        mixed = self.cache.attention_with_fused_qkv(place, joined, heads, kind.scale)
        return Value(self._shaped(mixed._expr, heads * width), (heads * width,))

    def add(self, x: Value, y: Value) -> Value:
        """In float32: what layers add up would be rounded in float16 twice a layer."""
        return Value(self._te(dense.total, x.tensor, y.tensor), x.shape)

    def mul(self, x: Value, y: Value) -> Value:
        return Value(self.bb.emit(relax.op.multiply(x.tensor, y.tensor)), x.shape)

    def scale(self, x: Value, by: float) -> Value:
        return Value(self._te(dense.scaled, x.tensor, by), x.shape)

    def sigmoid(self, x: Value) -> Value:
        return Value(self._te(dense.sigmoid, x.tensor), x.shape)

    def tanh(self, x: Value) -> Value:
        return Value(self._te(dense.tanh, x.tensor), x.shape)

    def gelu_tanh(self, x: Value) -> Value:
        return Value(self._te(dense.gelu_tanh, x.tensor), x.shape)

    def silu(self, x: Value) -> Value:
        return Value(self._te(dense.silu, x.tensor), x.shape)

    def route(self, scores: Value, routing: Routing) -> Value:
        return Value(self._routed(scores, routing)[0], scores.shape)

    def experts(
        self, x: Value, scores: Value, routing: Routing, experts: Sequence[Expert]
    ) -> Value:
        """The chosen experts' rows alone are read, where all experts are stored as one matrix."""
        up = self.table.joined(tuple(name for each in experts for name in each.gate_up))
        down = self.table.joined(tuple(each.down for each in experts))
        if up is None or down is None:
            return super().experts(x, scores, routing, experts)
        weights, ranks = self._routed(scores, routing)
        named = self._te(partial(chosen.best_named, routing.chosen), ranks)
        wide, width = experts[0].feed_forward, experts[0].width
        both = self._te(partial(chosen.grown, up, wide), x.tensor, named, self._stored(up))
        inner = self._te(partial(chosen.gated, self.dtype), both)
        given = self._te(partial(chosen.shrunk, down, width), inner, named, self._stored(down))
        return Value(self._te(partial(chosen.joined, self.dtype), given, named, weights), x.shape)

    def scale_by_column(self, x: Value, weights: Value, number: int) -> Value:
        return Value(self._te(dense.weighed, x.tensor, weights.tensor, number), x.shape)

    def add_bias(self, x: Value, name: str) -> Value:
        return Value(self._te(dense.shifted, x.tensor, self._weight(name)), x.shape)

    def softplus(self, x: Value) -> Value:
        return Value(self._te(dense.softplus, x.tensor), x.shape)

    def conv(self, x: Value, name: str, kernel: int, layer: int, bias: bool) -> Value:
        convolution = scan.convolution(x.shape[0], kernel, x.dtype)
        mixed = self._through(convolution, layer, "conv", [x], [self._weight(f"{name}.weight")])
        return self.add_bias(mixed, f"{name}.bias") if bias else mixed

    def scan(self, x: Value, step: Value, b: Value, c: Value, layer: int, kind: Scan) -> Value:
        vectors = [self._weight(f"{kind.at}.A_log"), self._weight(f"{kind.at}.D")]
        selective = scan.selective_scan(kind, x.shape[0], x.dtype, b.dtype)
        return self._through(selective, layer, "scan", [x, step, b, c], vectors)

    @property
    def kept(self) -> list[Expr]:
        """The cache and the states after this step."""
        after = {KV: self.cache._expr, RECURRENT: self.states.expr}
        return [after[kind] for kind in self.step.kept]

    def tap(self, x: Value, name: str) -> Value:
        if self.debug:
            self.taps[name] = x.tensor
        return x

    def _routed(self, scores: Value, routing: Routing) -> tuple[Expr, Expr]:
        """Weights of the experts, and their ranks."""
        probabilities = self.bb.emit(relax.op.nn.softmax(relax.op.astype(scores.tensor, "float32")))
        ranks = self._te(chosen.ranked, probabilities)
        kept = self._te(partial(chosen.best_kept, routing.chosen), probabilities, ranks)
        if routing.normalized:
            kept = self.bb.emit(relax.op.divide(kept, relax.op.sum(kept, -1, keepdims=True)))
        return kept, ranks

    def _stored(self, matrix: Matrix) -> list[Expr]:
        return [self._weight(param.name) for param in matrix.params]

    def _product(self, x: Value, matrix: Matrix, bias: Expr | None, name: str) -> Value:
        head = name == self.table.head
        tensor = x.tensor
        if head and self.step.select is not None:
            tensor = self.step.select(tensor)
        stored = self._stored(matrix)
        out = "float32" if head else self.dtype
        given = [tensor, stored] if bias is None else [tensor, stored, bias]
        multiplied = partial(dense.product, matrix, out)
        output = self.bb.emit_te(multiplied, *given, primfunc_name_hint="dequantize_matmul")
        return Value(output, (matrix.rows,))

    def _through(
        self, kernel: Any, layer: int, kind: str, tokens: list[Value], vectors: list[Expr]
    ) -> Value:
        """A kernel that follows each sequence through its tokens, and moves a state on."""
        x, shape = tokens[0], tokens[0].tensor.ty.shape
        batch, length, ends = shape[0], shape[1], self.step.ends
        flat = [
            self.bb.emit(relax.op.reshape(each.tensor, (batch * length, *each.shape)))
            for each in tokens
        ]
        ends = self._te(dense.row_ends, x.tensor) if ends is None else ends
        given, output = [*flat, *vectors, ends], flat[0].ty
        mixed = self.states.through(layer, kind, kernel, given, output, ends.ty.shape[0])
        return Value(self.bb.emit(relax.op.reshape(mixed, (batch, length, *x.shape))), x.shape)

    def _shaped(self, tensor: Expr, *shape: int) -> Expr:
        batch, tokens = tensor.ty.shape[0], tensor.ty.shape[1]
        return self.bb.emit(relax.op.reshape(tensor, (batch, tokens, *shape)))

    def _te(self, expression: Callable[..., Any], *given: Any) -> Expr:
        name = (expression.func if isinstance(expression, partial) else expression).__name__
        return self.bb.emit_te(expression, *given, primfunc_name_hint=name)

    def _weight(self, name: str) -> Expr:
        return self.step.weights(name)
