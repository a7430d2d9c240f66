"""The vocabulary as ONNX nodes for ONNX Runtime: the interpreter of the ``ort`` artifact."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain, groupby

import numpy as np

from slmkit.ops import Attention, Expert, Ops, Projection, Rope, Routing, Scan
from slmkit_onnx.graph import MICROSOFT, Graph
from slmkit_onnx.ort.contract import LAST, LOGITS_FROM
from slmkit_onnx.ort.lowering.attention import AttentionWriter, supports_fused_attention
from slmkit_onnx.ort.lowering.moe import ExpertWriter
from slmkit_onnx.ort.lowering.scan import ScanWriter
from slmkit_onnx.ort.lowering.value import Value
from slmkit_onnx.ort.lowering.weights import WeightWriter, joint_name

TAP = "tap."  # prefix of the outputs of a debug build


class OnnxOps(Ops[Value]):
    """Write one model's graph; every value is [batch, T, ...]."""

    def __init__(
        self,
        graph: Graph,
        weights: WeightWriter,
        attention: AttentionWriter,
        debug: bool = False,
        last_only: Collection[str] = (),
    ) -> None:
        self.debug = debug
        self.last_only = (
            last_only  # linears that multiply the call's last token, or those asked for
        )
        self.graph = graph
        self.weights = weights
        self.attention = attention
        self.scans = ScanWriter(graph, weights)

    def embed(self, name: str, rows: int, width: int) -> Value:
        return Value(self.weights.gather("input_ids", name, self._new_name("embed")), (width,))

    def linear(self, x: Value, name: str, width: int, bias: bool = False) -> Value:
        if name in self.last_only:
            x = self._answering(x)
        return Value(
            self.weights.linear(x, [name], self._new_name(f"{name}.linear"), bias), (width,)
        )

    def linears(self, x: Value, projections: Sequence[Projection]) -> tuple[Value, ...]:
        """One kernel call and a split for neighbours of one scheme: in a short decode step each
        kernel call costs time."""
        alike = groupby(
            projections, lambda each: (self.weights.codes.schemes[each.name], each.bias)
        )
        return tuple(chain.from_iterable(self._joined(x, list(group)) for _, group in alike))

    def _joined(self, x: Value, projections: Sequence[Projection]) -> tuple[Value, ...]:
        names = [each.name for each in projections]
        if len(names) == 1 or not self.weights.can_join(names):
            return super().linears(x, projections)
        tensor = self.weights.linear(
            x, names, self._new_name(f"{joint_name(names)}.linear"), projections[0].bias
        )
        widths = [each.width for each in projections]
        return self._split(tensor, widths, [self._new_name(f"{name}.linear") for name in names])

    def split(self, x: Value, widths: Sequence[int]) -> tuple[Value, ...]:
        return self._split(
            x.name, widths, [self._new_name(f"split.{at}") for at in range(len(widths))]
        )

    def rms_norm(self, x: Value, name: str, eps: float) -> Value:
        inputs = [x.name, self.weights.vector(f"{name}.weight")]
        output = self.graph.node(
            "SimplifiedLayerNormalization",
            inputs,
            self._new_name(name),
            axis=-1,
            epsilon=eps,
            stash_type=1,
        )
        return Value(output, x.shape)

    def add_norm(self, x: Value, y: Value, name: str, eps: float) -> tuple[Value, Value]:
        output, total = self._new_name(name), self._new_name("sum")
        weight = self.weights.vector(f"{name}.weight")
        self.graph.multi_output_node(
            "SkipSimplifiedLayerNormalization",
            [x.name, y.name, weight],
            [output, "", "", total],
            MICROSOFT,
            epsilon=eps,
        )
        return Value(total, x.shape), Value(output, x.shape)

    def split_heads(self, x: Value, heads: int) -> Value:
        shape = (heads, x.shape[-1] // heads)
        target = self.graph.constant(f"heads.{heads}.{shape[1]}", [0, 0, *shape])
        name = self.graph.node("Reshape", [x.name, target], self._new_name("heads"))
        return Value(name, shape, flat=x.name, slice_of=x.slice_of)

    def rope(self, x: Value, rope: Rope) -> Value:
        return Value(self.attention.apply_rope(x, rope, self._new_name("rope")), x.shape)

    def attend(self, q: Value, k: Value, v: Value, layer: int, kind: Attention) -> Value:
        if supports_fused_attention(self.attention.spec):
            output = self.attention.fused_attention(q, k, v, layer, None, kind)
        else:
            output = self.attention.decomposed_attention(q, k, v, layer, kind)
        return Value(output, (q.shape[0] * q.shape[1],))

    def rotary_attention(
        self, q: Value, k: Value, v: Value, layer: int, rope: Rope, kind: Attention
    ) -> Value:
        if not supports_fused_attention(self.attention.spec):
            return super().rotary_attention(q, k, v, layer, rope, kind)
        output = self.attention.fused_attention(q, k, v, layer, rope, kind)
        return Value(output, (q.shape[0] * q.shape[1],))

    def add(self, x: Value, y: Value) -> Value:
        return Value(self.graph.node("Add", [x.name, y.name], self._new_name("add")), x.shape)

    def mul(self, x: Value, y: Value) -> Value:
        return Value(self.graph.node("Mul", [x.name, y.name], self._new_name("mul")), x.shape)

    def scale(self, x: Value, by: float) -> Value:
        factor = self.graph.constant(f"scale.{by:.9g}", by, np.float32)
        return Value(self.graph.node("Mul", [x.name, factor], self._new_name("scale")), x.shape)

    def sigmoid(self, x: Value) -> Value:
        return Value(self.graph.node("Sigmoid", [x.name], self._new_name("sigmoid")), x.shape)

    def tanh(self, x: Value) -> Value:
        return Value(self.graph.node("Tanh", [x.name], self._new_name("tanh")), x.shape)

    def gelu_tanh(self, x: Value) -> Value:
        output = self.graph.node("Gelu", [x.name], self._new_name("gelu"), approximate="tanh")
        return Value(output, x.shape)

    def route(self, scores: Value, routing: Routing) -> Value:
        graph, at = self.graph, self._new_name("route")
        probabilities = graph.node("Softmax", [scores.name], f"{at}.chances", axis=-1)
        count = graph.constant(f"chosen.{routing.chosen}", [routing.chosen])
        best, indices = f"{at}.best", f"{at}.which"
        graph.multi_output_node("TopK", [probabilities, count], [best, indices], axis=-1)
        if routing.normalized:
            axis = graph.constant("axis.last", [-1])
            total = graph.node("ReduceSum", [best, axis], f"{at}.total", keepdims=1)
            best = graph.node("Div", [best, total], f"{at}.share")
        zero = graph.constant("float.0", 0.0, np.float32)
        zeros = graph.node("Mul", [probabilities, zero], f"{at}.empty")
        graph.node("ScatterElements", [zeros, indices, best], at, axis=-1)
        return Value(at, scores.shape)

    def scale_by_column(self, x: Value, weights: Value, number: int) -> Value:
        index = self.graph.constant(f"column.{number}", [number])
        column = self.graph.node("Gather", [weights.name, index], self._new_name("weight"), axis=-1)
        return Value(self.graph.node("Mul", [x.name, column], self._new_name("weighed")), x.shape)

    def add_bias(self, x: Value, name: str) -> Value:
        inputs = [x.name, self.weights.vector(name)]
        name = self._new_name("shift")  # of nodes in artifacts: it stays
        return Value(self.graph.node("Add", inputs, name), x.shape)

    def softplus(self, x: Value) -> Value:
        return Value(self.graph.node("Softplus", [x.name], self._new_name("softplus")), x.shape)

    def conv(self, x: Value, name: str, kernel: int, layer: int, bias: bool) -> Value:
        return Value(self.scans.convolution(x, name, kernel, layer, bias), x.shape)

    def scan(self, x: Value, step: Value, b: Value, c: Value, layer: int, kind: Scan) -> Value:
        return Value(self.scans.selective_scan(x, step, b, c, layer, kind), x.shape)

    def experts(
        self, x: Value, scores: Value, routing: Routing, experts: Sequence[Expert]
    ) -> Value:
        writer = ExpertWriter(self.graph, self.weights.codes, self.weights.accuracy_level)
        if not writer.supports(experts):
            return super().experts(x, scores, routing, experts)
        weights = self.route(scores, routing)
        return Value(
            writer.write(x.name, weights.name, routing, experts, self._new_name("experts")),
            x.shape,
        )

    def _answering(self, x: Value) -> Value:
        """The tokens whose logits are asked for, the last one by default. [batch, rows, D]"""
        graph, first = self.graph, np.array([LAST])
        bounds = [
            graph.optional_input(LOGITS_FROM, "int64", (1,), first),
            graph.constant("end", [np.iinfo(np.int64).max]),
            graph.constant("one", [1]),
        ]
        return Value(graph.node("Slice", [x.name, *bounds], self._new_name("answering")), x.shape)

    def tap(self, x: Value, name: str) -> Value:
        if self.debug:
            self.graph.node("Identity", [x.name], TAP + name)
            self.graph.output(TAP + name, ("batch", "tokens", *x.shape))
        return x

    def _split(self, tensor: str, widths: Sequence[int], outputs: list[str]) -> tuple[Value, ...]:
        sizes = self.graph.constant(f"widths.{'.'.join(map(str, widths))}", list(widths))
        self.graph.multi_output_node("Split", [tensor, sizes], outputs, axis=-1)
        return tuple(
            Value(output, (width,), slice_of=(tensor, number))
            for number, (output, width) in enumerate(zip(outputs, widths, strict=True))
        )

    def _new_name(self, stem: str) -> str:
        """A new name: the stem and the number of nodes so far."""
        return f"{stem}.{len(self.graph.nodes)}"
