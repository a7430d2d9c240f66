"""The vocabulary as static QDQ graphs for HTP: the interpreter of the ``hexagon`` artifact.

Every value has a static shape with batch 1: [1, T, D], or [1, H, T, d] in attention. Each op is
written in a form that HTP's compiler supports and computes precisely, measured on its emulator.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from slmkit.backend.partition import unit_of
from slmkit.ops import Attention, Floats, Ops, Rope, Routing, Scan
from slmkit_onnx.hexagon.lowering.attention import AttentionWriter
from slmkit_onnx.hexagon.lowering.encodings import MINUS_ONE_TO_ONE, ZERO_TO_ONE, asymmetric
from slmkit_onnx.hexagon.lowering.moe import expert_weights
from slmkit_onnx.hexagon.lowering.per_token_scale import power_of_two_scale
from slmkit_onnx.hexagon.lowering.scan import ScanWriter
from slmkit_onnx.hexagon.lowering.static_graph import StaticGraphs, Value
from slmkit_onnx.hexagon.lowering.weights import WeightWriter

TAP = "tap."  # prefix of the outputs of a debug build


class HexagonOps(Ops[Value]):
    """Write the graphs of all parts for one token count (prefill or decode)."""

    def __init__(
        self,
        graphs: StaticGraphs,
        weights: WeightWriter,
        attention: AttentionWriter,
        table_in_graph: bool,
        wide: bool = True,
        debug: bool = False,
    ) -> None:
        self.graphs = graphs
        self.weights = weights
        self.attention = attention
        self.scans = ScanWriter(graphs)
        self.table_in_graph = table_in_graph  # the embedding table lies in the graph
        self.wide = wide  # the residual stream and what feeds it stay unquantized
        self.debug = debug
        self.unit_name = "layer.0"  # prefix of the names of the current unit's values
        self.name_counts: Counter[str] = Counter()
        self.embedding_name = ""  # the table's weight
        self.last_scan = "no layer"  # weight prefix of the last layer with a scan

    def embed(self, name: str, rows: int, width: int) -> Value:
        self.embedding_name = name
        tokens, graphs = self.attention.window.tokens, self.graphs
        if graphs.ranges is None:
            return graphs.input("input_embeds", (1, tokens, width), ZERO_TO_ONE)
        encoding = asymmetric(graphs.ranges["input_embeds"])
        if not self.table_in_graph:
            integers = not self.attention.contract.float_embeds
            return graphs.input("input_embeds", (1, tokens, width), encoding, integers)
        return graphs.embedding_lookup(
            self.weights.table(graphs.graph, name, encoding),
            "input_ids",
            (1, tokens, width),
            encoding,
        )

    def linear(self, x: Value, name: str, width: int, bias: bool = False) -> Value:
        self._enter_unit(name)
        if x.unquantized:
            return self._linear_with_token_scales(x, name, width, bias)
        product = self._product(x, name, width)
        return self._add_bias(product, name) if bias else product

    def rms_norm(self, x: Value, name: str, eps: float) -> Value:
        """RMSNorm. Two stay unquantized, as tokens differ too much for one 16-bit scale: that of a
        scan's output, which would keep 63 dB, and the last one, whose gains are the largest: text
        in another script than calibration's was eight times larger there."""
        of_scan, layers = name.startswith(f"{self.last_scan}."), self.attention.spec.layers
        is_last = self.wide and unit_of(name, layers) == layers
        return self._norm(x, name, eps, of_scan or is_last)

    def post_norm(self, x: Value, name: str, eps: float) -> Value:
        """RMSNorm, unquantized as the residual stream that it is added to."""
        return self._norm(x, name, eps, unquantized=self.wide)

    def add_norm(self, x: Value, y: Value, name: str, eps: float) -> tuple[Value, Value]:
        """The residual stream stays unquantized: its first token is a thousand times larger than
        the others, and one scale for all would keep 20 dB of them."""
        total = self._binary("Add", x, y, self.wide)
        return total, self.rms_norm(total, name, eps)

    def _norm(self, x: Value, name: str, eps: float, unquantized: bool) -> Value:
        self._enter_unit(name)
        vector = self.weights.vector(f"{name}.weight")
        gain = self.graphs.constant(f"{name}.weight", vector, unquantized=x.unquantized)
        flat = self.graphs.reshape(x, (1, math.prod(x.shape[:-1]), x.shape[-1]))
        normed = self.graphs.op(
            "RMSNormalization",
            [flat, gain],
            f"{name}.normed",
            flat.shape,
            unquantized=unquantized,
            axis=-1,
            epsilon=eps,
        )
        return self.graphs.reshape(normed, x.shape)

    def split(self, x: Value, widths: Sequence[int]) -> tuple[Value, ...]:
        return tuple(self.graphs.split(x, widths, self._new_name("split")))

    def split_heads(self, x: Value, heads: int) -> Value:
        """[1, T, H * d] -> [1, H, T, d]"""
        shape = (1, self.attention.window.tokens, heads, x.shape[-1] // heads)
        return self.graphs.transpose(self.graphs.reshape(x, shape), (0, 2, 1, 3))

    def rope(self, x: Value, rope: Rope) -> Value:
        return self.attention.apply_rope(x, rope, self._new_name("rope"))

    def attend(self, q: Value, k: Value, v: Value, layer: int, kind: Attention) -> Value:
        return self.attention.attend(q, k, v, layer, kind, self._new_name("attention"))

    def add(self, x: Value, y: Value) -> Value:
        return self._binary("Add", x, y)

    def mul(self, x: Value, y: Value) -> Value:
        return self._binary("Mul", x, y)

    def gated_product(self, x: Value, y: Value) -> Value:
        """Unquantized, so that the linear that reads it scales each token by itself."""
        return self._binary("Mul", x, y, self.wide)

    def scale(self, x: Value, by: float) -> Value:
        at = self._new_name("scale")
        factor = self.graphs.constant(
            f"{at}.by", np.array([by], np.float32), unquantized=x.unquantized
        )
        return self.graphs.op("Mul", [x, factor], at, x.shape, unquantized=x.unquantized)

    def sigmoid(self, x: Value) -> Value:
        return self.graphs.op(
            "Sigmoid", [x], self._new_name("sigmoid"), x.shape, encoding=ZERO_TO_ONE
        )

    def tanh(self, x: Value) -> Value:
        return self.graphs.op(
            "Tanh", [x], self._new_name("tanh"), x.shape, encoding=MINUS_ONE_TO_ONE
        )

    def gelu_tanh(self, x: Value) -> Value:
        return self.graphs.op("Gelu", [x], self._new_name("gelu"), x.shape, approximate="tanh")

    def route(self, scores: Value, routing: Routing) -> Value:
        return expert_weights(self.graphs, scores, routing, self._new_name("route"))

    def scale_by_column(self, x: Value, weights: Value, number: int) -> Value:
        at, graph, shape = self._new_name("weighed"), self.graphs.graph, (*weights.shape[:-1], 1)
        ends = (("start", number), ("end", number + 1), ("axis", len(shape) - 1))
        bounds = [graph.constant(f"cut.{name}.{value}", [value]) for name, value in ends]
        column = self.graphs.op("Slice", [weights, *bounds], f"{at}.weight", shape, like=weights)
        return self.graphs.op("Mul", [x, column], at, x.shape, unquantized=x.unquantized)

    def add_bias(self, x: Value, name: str) -> Value:
        term = self.graphs.constant(name, self.weights.vector(name))
        return self.graphs.op("Add", [x, term], self._new_name("shifted"), x.shape)

    def softplus(self, x: Value) -> Value:
        return self.scans.softplus(x, self._new_name("softplus"))

    def conv(self, x: Value, name: str, kernel: int, layer: int, bias: bool) -> Value:
        weight = self.weights.vector(f"{name}.weight").reshape(-1, kernel)
        output = self.scans.convolution(x, weight, layer, self._new_name("conv"))
        return self.add_bias(output, f"{name}.bias") if bias else output

    def scan(self, x: Value, step: Value, b: Value, c: Value, layer: int, kind: Scan) -> Value:
        self.last_scan = kind.at
        rate, at = self.weights.vector(f"{kind.at}.A_log"), self._new_name("scan")
        if kind.by_number:
            rate = rate.reshape(kind.heads, kind.state)
            output = self.scans.scan_by_number(x, step, b, c, rate, layer, at)
        else:
            output = self.scans.scan_by_head(x, step, b, c, rate, layer, at)
        skip = np.repeat(self.weights.vector(f"{kind.at}.D"), x.shape[-1] // kind.heads)
        return self.add(output, self.mul(x, self.graphs.constant(f"{kind.at}.D", skip)))

    def tap(self, x: Value, name: str) -> Value:
        if self.debug and self.graphs.ranges is None:
            self.graphs.float_output(x, TAP + name)
        return x

    def _binary(self, op: str, x: Value, y: Value, unquantized: bool = False) -> Value:
        """An element-wise op; its result is unquantized if asked for, or if an operand is."""
        unquantized = unquantized or x.unquantized or y.unquantized
        at = self._new_name(op.lower())
        return self.graphs.op(op, [x, y], at, x.shape, unquantized=unquantized)

    def _linear_with_token_scales(self, x: Value, name: str, width: int, bias: bool) -> Value:
        """A linear of an unquantized value.

        Each token is divided by a power of two and its result multiplied by it, so that small
        tokens keep as many bits as large ones. In a layer, large rows likewise: the massive token's
        error in all other channels would be a share of its massive channel.
        """
        op = self.graphs.op
        scale, inverse = power_of_two_scale(self.graphs, x, name)
        scaled = op("Mul", [x, inverse], f"{name}.share", x.shape, encoding=MINUS_ONE_TO_ONE)
        in_layer = unit_of(name, self.attention.spec.layers) < self.attention.spec.layers
        factors = self.weights.row_factors(name) if in_layer else np.ones(1, np.float32)
        has_large_rows = bool(factors.max() > 1)
        product = self._product(scaled, name, width, factors if has_large_rows else None)
        result = op("Mul", [product, scale], f"{name}.whole", product.shape, unquantized=True)
        if has_large_rows:
            rows = self.graphs.constant(f"{name}.rows", factors, unquantized=True)
            result = op("Mul", [result, rows], f"{name}.restored", product.shape, unquantized=True)
        return self._add_bias(result, name) if bias else result

    def _product(self, x: Value, name: str, width: int, divisors: Floats | None = None) -> Value:
        x = self._pad(x, self.weights.padded_inputs(name))
        weight = self.weights.matrix(self.graphs.graph, name, divisors)
        return self.graphs.op("MatMul", [x, weight], f"{name}.product", (*x.shape[:-1], width))

    def _add_bias(self, product: Value, name: str) -> Value:
        vector = self.weights.vector(f"{name}.bias")
        term = self.graphs.constant(f"{name}.bias", vector, unquantized=product.unquantized)
        return self.graphs.op(
            "Add", [product, term], f"{name}.biased", product.shape, unquantized=product.unquantized
        )

    def _enter_unit(self, weight: str) -> None:
        """Continue in the unit (a layer, or the head) that a weight belongs to."""
        unit = unit_of(weight, self.attention.spec.layers)
        if self.unit_name != f"layer.{unit}":
            self.unit_name, self.name_counts = f"layer.{unit}", Counter()
        self.graphs.enter_unit(unit)

    def _new_name(self, stem: str) -> str:
        """A new name; a value has the same one for every token count and division into parts."""
        self.name_counts[stem] += 1
        return f"{self.unit_name}.{stem}.{self.name_counts[stem]}"

    def _pad(self, x: Value, width: int) -> Value:
        """Pad the last axis with zeros to ``width``: a weight's inputs fill whole blocks."""
        if x.shape[-1] == width:
            return x
        shape = (*x.shape[:-1], width)
        zeros = np.zeros((*x.shape[:-1], width - x.shape[-1]), np.float32)
        filler = self.graphs.constant(f"{x.name}.zeros.{x.shape[1]}", zeros, x)
        return self.graphs.op("Concat", [x, filler], f"{x.name}.filled", shape, like=x, axis=-1)
