"""The vocabulary as Relax operations: the interpreter of the ``mlc`` artifact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import relax
from tvm.relax.frontend.nn import Tensor
from tvm.relax.frontend.nn.llm.kv_cache import PagedKVCache

from slmkit.ops import Attention, Ops, Projection, Rope
from slmkit.target import Spec
from slmkit_mlc import kernels
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
    cache: Expr
    weights: Weights
    select: Select | None = None  # None: every token's logits


class MlcOps(Ops[Value]):
    """Writes one function into the block builder's open dataflow block."""

    def __init__(
        self, bb: relax.BlockBuilder, spec: Spec, table: Table, dtype: str, step: Step,
        debug: bool = False,
    ) -> None:  # fmt: skip
        self.bb, self.spec, self.table, self.dtype, self.step = bb, spec, table, dtype, step
        self.cache = PagedKVCache(_expr=step.cache, _name="cache")
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
        found, first = [], 0
        for number, each in enumerate(projections):
            part = self._te(kernels.part, whole.tensor, first, each.width)
            found.append(Value(part, (each.width,), whole.tensor, number))
            first += each.width
        return tuple(found)

    def rms_norm(self, x: Value, name: str, eps: float) -> Value:
        weight = self._weight(self.table.vectors[f"{name}.weight"].name)
        if self.dtype != "float16":
            weight = self.bb.emit(relax.op.astype(weight, self.dtype))
        normed = relax.op.nn.rms_norm(x.tensor, weight, axes=-1, epsilon=eps)
        return Value(self.bb.emit(normed), x.shape)

    def split_heads(self, x: Value, heads: int) -> Value:
        shape = heads, x.shape[0] // heads
        return Value(self._shaped(x.tensor, *shape), shape, x.whole, x.number)

    def rope(self, x: Value, rope: Rope) -> Value:
        raise NotImplementedError("the KV cache rotates: see rotary_attention")

    def attend(self, q: Value, k: Value, v: Value, layer: int, kind: Attention) -> Value:
        raise NotImplementedError("the KV cache rotates: see rotary_attention")

    def rotary_attention(
        self, q: Value, k: Value, v: Value, layer: int, rope: Rope, kind: Attention
    ) -> Value:
        """The KV cache splits q, k and v apart, rotates, keeps and attends."""
        heads, width = q.shape
        if _are_one(q, k, v):
            qkv = self._shaped(q.whole, heads + 2 * k.shape[0], width)
        else:
            qkv = self._te(kernels.heads_joined, q.tensor, k.tensor, v.tensor)
        mixed = self.cache.attention_with_fused_qkv(layer, Tensor(_expr=qkv), heads, kind.scale)
        return Value(self._shaped(mixed._expr, heads * width), (heads * width,))

    def add(self, x: Value, y: Value) -> Value:
        return Value(self.bb.emit(relax.op.add(x.tensor, y.tensor)), x.shape)

    def mul(self, x: Value, y: Value) -> Value:
        return Value(self.bb.emit(relax.op.multiply(x.tensor, y.tensor)), x.shape)

    def sigmoid(self, x: Value) -> Value:
        return Value(self._te(kernels.sigmoid, x.tensor), x.shape)

    def silu(self, x: Value) -> Value:
        return Value(self._te(kernels.silu, x.tensor), x.shape)

    def tap(self, x: Value, name: str) -> Value:
        if self.debug:
            self.taps[name] = x.tensor
        return x

    def _product(self, x: Value, matrix: Matrix, bias: Expr | None, name: str) -> Value:
        head = name == self.table.head
        tensor = x.tensor
        if head and self.step.select is not None:
            tensor = self.step.select(tensor)
        stored = [self._weight(param.name) for param in matrix.params]
        out = "float32" if head else self.dtype
        given = [tensor, stored] if bias is None else [tensor, stored, bias]
        multiplied = partial(kernels.product, matrix, out)
        output = self.bb.emit_te(multiplied, *given, primfunc_name_hint="dequantize_matmul")
        return Value(output, (matrix.rows,))

    def _shaped(self, tensor: Expr, *shape: int) -> Expr:
        batch, tokens = tensor.ty.shape[0], tensor.ty.shape[1]
        return self.bb.emit(relax.op.reshape(tensor, (batch, tokens, *shape)))

    def _te(self, expression: Callable[..., Any], *given: Any) -> Expr:
        return self.bb.emit_te(expression, *given, primfunc_name_hint=expression.__name__)

    def _weight(self, name: str) -> Expr:
        return self.step.weights(name)
