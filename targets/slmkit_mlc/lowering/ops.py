"""The vocabulary as Relax operations: the interpreter of the ``mlc`` artifact.

Kernel names (the first argument of ``_kernel``) land in the compiled libraries and in their
reports, so they are fixed: they do not follow the names of the Python functions.
"""

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
from slmkit_mlc.kernels import dense, moe, scan
from slmkit_mlc.lowering.kv_cache import cache_rope
from slmkit_mlc.lowering.recurrent_state import RecurrentState
from slmkit_mlc.params import Matrix, Table

Expr = Any  # a Relax expression
Weights = Callable[[str], Expr]  # a parameter by name
Select = Callable[[Expr], Expr]  # picks the tokens whose logits are needed: [b, T, D] -> [b, t, D]


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the program; a vocabulary shape (D,) is stored as [b, T, D], (H, d) as
    [b, T, H, d].

    ``fused``: the output of a fused matrix of which this value is slice number ``part``.
    """

    tensor: Expr
    shape: tuple[int, ...]
    fused: Expr | None = None
    part: int = 0

    @property
    def dtype(self) -> str:
        """The element type, such as "float16"."""
        return str(self.tensor.ty.dtype)


def _slices_of_one_matrix(*values: Value) -> bool:
    """Whether the values are the slices of one fused matrix's output, in order."""
    fused = values[0].fused
    if fused is None:
        return False
    return all(value.fused is fused and value.part == part for part, value in enumerate(values))


@dataclass(frozen=True, eq=False)
class Step:
    """Inputs of one function of the library, for the interpreter."""

    embeddings: Expr  # [b, T, D]
    states: Mapping[str, Expr]  # KV cache and recurrent state, by kind; those that the model has
    weights: Weights
    select: Select | None = None  # None: every token's logits
    ends: Expr | None = None  # index of each sequence's last token; None: one sequence per row


class MlcOps(Ops[Value]):
    """Emits one function into the block builder's open dataflow block."""

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
        self.cache = PagedKVCache(_expr=step.states.get(KV), _name="cache")
        self.recurrent = RecurrentState(bb, model, step.states.get(RECURRENT))
        self.taps: dict[str, Expr] = {}
        self.debug = debug

    def embed(self, name: str, rows: int, width: int) -> Value:
        """The step's embeddings: the engine called the library's function ``embed`` before."""
        return Value(self.step.embeddings, (width,))

    def linear(self, x: Value, name: str, width: int, bias: bool = False) -> Value:
        vector = self._weight(self.table.vectors[f"{name}.bias"].name) if bias else None
        return self._matmul(x, self.table.matrices[name], vector, name)

    def linears(self, x: Value, projections: Sequence[Projection]) -> tuple[Value, ...]:
        """One kernel if the matrices are stored as one fused matrix, whose output is sliced."""
        matrix = self.table.fused(tuple(projection.name for projection in projections))
        if matrix is None:
            return super().linears(x, projections)
        bias = self.table.vectors.get(f"{projections[0].name}.bias")
        output = self._matmul(x, matrix, self._weight(bias.name) if bias else None, "")
        return self.split(output, [projection.width for projection in projections])

    def rms_norm(self, x: Value, name: str, eps: float) -> Value:
        weight = self._weight(self.table.vectors[f"{name}.weight"].name)
        norm = partial(dense.rms_norm, eps, self.dtype)
        return Value(self._kernel("rms_norm", norm, x.tensor, weight), x.shape)

    def split_heads(self, x: Value, heads: int) -> Value:
        shape = heads, x.shape[0] // heads
        return Value(self._reshape(x.tensor, *shape), shape, x.fused, x.part)

    def split(self, x: Value, widths: Sequence[int]) -> tuple[Value, ...]:
        slices, first = [], 0
        for part, width in enumerate(widths):
            tensor = self._kernel("part", dense.slice_columns, x.tensor, first, width)
            slices.append(Value(tensor, (width,), x.tensor, part))
            first += width
        return tuple(slices)

    def rope(self, x: Value, rope: Rope) -> Value:
        """Rotate in the program: only for models with several ropes (see ``rotary_attention``)."""
        batch, tokens = x.tensor.ty.shape[0], x.tensor.ty.shape[1]
        positions = self.cache.get_query_positions(batch * tokens)._expr
        frequencies = relax.const(np.asarray(rope.frequencies, np.float32))
        rotate = partial(dense.rotate, rope.magnitude)
        return Value(self._kernel("rotated", rotate, x.tensor, positions, frequencies), x.shape)

    def rotary_attention(
        self, q: Value, k: Value, v: Value, layer: int, rope: Rope, kind: Attention
    ) -> Value:
        """Attention; the program applies a rope that the KV cache does not apply to every layer."""
        if cache_rope(self.model.spec) == rope:
            return self.attend(q, k, v, layer, kind)
        return super().rotary_attention(q, k, v, layer, rope, kind)

    def attend(self, q: Value, k: Value, v: Value, layer: int, kind: Attention) -> Value:
        """Call the KV cache, which splits q, k and v, applies its rope, stores k and v, attends."""
        heads, width = q.shape
        if _slices_of_one_matrix(q, k, v):
            qkv = self._reshape(q.fused, heads + 2 * k.shape[0], width)
        else:
            qkv = self._kernel("heads_joined", dense.concat_heads, q.tensor, k.tensor, v.tensor)
        cache_layer = self.model.attention_layers.index(layer)
        output = self.cache.attention_with_fused_qkv(
            cache_layer, Tensor(_expr=qkv), heads, kind.scale
        )
        return Value(self._reshape(output._expr, heads * width), (heads * width,))

    def add(self, x: Value, y: Value) -> Value:
        """Add in float32: float16 would round the residual stream twice a layer."""
        return Value(self._kernel("total", dense.add, x.tensor, y.tensor), x.shape)

    def mul(self, x: Value, y: Value) -> Value:
        return Value(self.bb.emit(relax.op.multiply(x.tensor, y.tensor)), x.shape)

    def scale(self, x: Value, by: float) -> Value:
        return Value(self._kernel("scaled", dense.multiply_by, x.tensor, by), x.shape)

    def sigmoid(self, x: Value) -> Value:
        return Value(self._kernel("sigmoid", dense.sigmoid, x.tensor), x.shape)

    def tanh(self, x: Value) -> Value:
        return Value(self._kernel("tanh", dense.tanh, x.tensor), x.shape)

    def gelu_tanh(self, x: Value) -> Value:
        return Value(self._kernel("gelu_tanh", dense.gelu_tanh, x.tensor), x.shape)

    def silu(self, x: Value) -> Value:
        return Value(self._kernel("silu", dense.silu, x.tensor), x.shape)

    def route(self, scores: Value, routing: Routing) -> Value:
        return Value(self._route(scores, routing)[0], scores.shape)

    def experts(
        self, x: Value, scores: Value, routing: Routing, experts: Sequence[Expert]
    ) -> Value:
        """Read only the chosen experts' rows, if all experts are stored as one fused matrix."""
        gate_up = self.table.fused(tuple(name for expert in experts for name in expert.gate_up))
        down = self.table.fused(tuple(expert.down for expert in experts))
        if gate_up is None or down is None:
            return super().experts(x, scores, routing, experts)
        weights, ranks = self._route(scores, routing)
        feed_forward, width = experts[0].feed_forward, experts[0].width
        top_k = partial(moe.top_k_indices, routing.chosen)
        gate_up_product = partial(moe.gate_up_product, gate_up, feed_forward)
        down_product = partial(moe.down_product, down, width)
        weighted_sum = partial(moe.weighted_sum, self.dtype)

        indices = self._kernel("best_named", top_k, ranks)
        hidden = self._kernel("grown", gate_up_product, x.tensor, indices, self._params(gate_up))
        inner = self._kernel("gated", partial(moe.silu_gate, self.dtype), hidden)
        outputs = self._kernel("shrunk", down_product, inner, indices, self._params(down))
        return Value(self._kernel("joined", weighted_sum, outputs, indices, weights), x.shape)

    def scale_by_column(self, x: Value, weights: Value, number: int) -> Value:
        product = self._kernel("weighed", dense.scale_by_column, x.tensor, weights.tensor, number)
        return Value(product, x.shape)

    def add_bias(self, x: Value, name: str) -> Value:
        return Value(
            self._kernel("shifted", dense.add_vector, x.tensor, self._weight(name)), x.shape
        )

    def softplus(self, x: Value) -> Value:
        return Value(self._kernel("softplus", dense.softplus, x.tensor), x.shape)

    def conv(self, x: Value, name: str, kernel: int, layer: int, bias: bool) -> Value:
        convolution = scan.convolution(x.shape[0], kernel, x.dtype)
        weights = [self._weight(f"{name}.weight")]
        output = self._update_state(convolution, layer, "conv", [x], weights)
        return self.add_bias(output, f"{name}.bias") if bias else output

    def scan(self, x: Value, step: Value, b: Value, c: Value, layer: int, kind: Scan) -> Value:
        weights = [self._weight(f"{kind.at}.A_log"), self._weight(f"{kind.at}.D")]
        selective_scan = scan.selective_scan(kind, x.shape[0], x.dtype, b.dtype)
        return self._update_state(selective_scan, layer, "scan", [x, step, b, c], weights)

    @property
    def next_states(self) -> list[Expr]:
        """KV cache and recurrent state after this step, in the order of ``Step.states``."""
        states = {KV: self.cache._expr, RECURRENT: self.recurrent.expr}
        return [states[kind] for kind in self.step.states]

    def tap(self, x: Value, name: str) -> Value:
        if self.debug:
            self.taps[name] = x.tensor
        return x

    def _route(self, scores: Value, routing: Routing) -> tuple[Expr, Expr]:
        """Weights of the experts, 0 for those that are not chosen, and their ranks. [b, T, E]"""
        probabilities = self.bb.emit(relax.op.nn.softmax(relax.op.astype(scores.tensor, "float32")))
        ranks = self._kernel("ranked", moe.expert_ranks, probabilities)
        top_k = partial(moe.top_k_probabilities, routing.chosen)
        weights = self._kernel("best_kept", top_k, probabilities, ranks)
        if routing.normalized:
            weights = self.bb.emit(
                relax.op.divide(weights, relax.op.sum(weights, -1, keepdims=True))
            )
        return weights, ranks

    def _params(self, matrix: Matrix) -> list[Expr]:
        return [self._weight(param.name) for param in matrix.params]

    def _matmul(self, x: Value, matrix: Matrix, bias: Expr | None, name: str) -> Value:
        """x @ weight.T (+ bias); of the head's logits, only those that the step selects."""
        head = name == self.table.head
        tensor = x.tensor
        if head and self.step.select is not None:
            tensor = self.step.select(tensor)
        inputs = [tensor, self._params(matrix)]
        if bias is not None:
            inputs.append(bias)
        matmul = partial(dense.matmul, matrix, "float32" if head else self.dtype)
        return Value(self._kernel("dequantize_matmul", matmul, *inputs), (matrix.rows,))

    def _update_state(
        self, kernel: Any, layer: int, kind: str, inputs: list[Value], weights: list[Expr]
    ) -> Value:
        """Call a kernel that reads and updates a layer's recurrent state of each sequence."""
        x, shape = inputs[0], inputs[0].tensor.ty.shape
        batch, length = shape[0], shape[1]
        flat = [
            self.bb.emit(relax.op.reshape(value.tensor, (batch * length, *value.shape)))
            for value in inputs
        ]
        ends = self.step.ends
        if ends is None:
            ends = self._kernel("row_ends", dense.row_ends, x.tensor)
        output = self.recurrent.call(
            layer, kind, kernel, [*flat, *weights, ends], flat[0].ty, ends.ty.shape[0]
        )
        return Value(self.bb.emit(relax.op.reshape(output, (batch, length, *x.shape))), x.shape)

    def _reshape(self, tensor: Expr, *shape: int) -> Expr:
        """Reshape all axes but the first two, [b, T, ...]."""
        batch, tokens = tensor.ty.shape[0], tensor.ty.shape[1]
        return self.bb.emit(relax.op.reshape(tensor, (batch, tokens, *shape)))

    def _kernel(self, name: str, expression: Callable[..., Any], *inputs: Any) -> Expr:
        """Emit a tensor expression of some inputs as a kernel of this name."""
        return self.bb.emit_te(expression, *inputs, primfunc_name_hint=name)

    def _weight(self, name: str) -> Expr:
        return self.step.weights(name)
