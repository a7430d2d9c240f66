"""The vocabulary as static QDQ graphs for HTP: the interpreter of the ``hexagon`` artifact.

Every value has its whole shape, batch 1: [1, T, D] between heads, [1, H, T, d] inside them.
The forms are those that HTP's compiler takes and computes well, measured on its emulator.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from slmkit.backend.partition import unit_of
from slmkit.ops import Attention, Ops, Rope, Routing, Scan
from slmkit_onnx.hexagon.lowering.attention import BOTH_WAYS, AttentionWriter
from slmkit_onnx.hexagon.lowering.encodings import UNIT, asymmetric
from slmkit_onnx.hexagon.lowering.moe import routed
from slmkit_onnx.hexagon.lowering.per_token_scale import factor_of
from slmkit_onnx.hexagon.lowering.scan import ScanWriter
from slmkit_onnx.hexagon.lowering.static_graph import StaticGraphs, Value
from slmkit_onnx.hexagon.lowering.weights import WeightWriter

TAP = "tap."  # prefix of the outputs of a debug build


class HexagonOps(Ops[Value]):
    """Writes one token count of a model into its parts' graphs."""

    def __init__(
        self,
        graphs: StaticGraphs,
        weights: WeightWriter,
        attention: AttentionWriter,
        embedded: bool,
        debug: bool = False,
    ) -> None:
        self.graphs = graphs
        self.weights = weights
        self.attention = attention
        self.scans = ScanWriter(graphs)
        self.embedded = embedded  # the table lies in the graph
        self.debug = debug
        self.place = "layer.0"  # of which unit the values are, for their names
        self.stems: Counter[str] = Counter()
        self.table = ""  # the embedding's name
        self.scanned = "no layer"  # the weights' prefix of the last layer that scanned

    def embed(self, name: str, rows: int, width: int) -> Value:
        self.table = name
        tokens, graphs = self.attention.window.tokens, self.graphs
        if graphs.ranges is None:
            return graphs.input("input_embeds", (1, tokens, width), UNIT)
        encoding = asymmetric(graphs.ranges["input_embeds"])
        if not self.embedded:
            integers = not self.attention.contract.float_embeds
            return graphs.input("input_embeds", (1, tokens, width), encoding, integers)
        return graphs.looked_up(
            self.weights.table(graphs.graph, name, encoding),
            "input_ids",
            (1, tokens, width),
            encoding,
        )

    def linear(self, x: Value, name: str, width: int, bias: bool = False) -> Value:
        self._enter(name)
        if x.real:
            return self._scaled_linear(x, name, width, bias)
        x = self._filled(x, self.weights.inputs_of(name))
        weight = self.weights.matrix(self.graphs.graph, name)
        shape = (*x.shape[:-1], width)
        product = self.graphs.op("MatMul", [x, weight], f"{name}.product", shape)
        return self._biased(product, name) if bias else product

    def rms_norm(self, x: Value, name: str, eps: float) -> Value:
        """What a scan gave stays real: 16 bits of one scale for all tokens keep 63 dB of it."""
        self._enter(name)
        vector = self.weights.vector(f"{name}.weight")
        gain = self.graphs.constant(f"{name}.weight", vector, real=x.real)
        flat = self.graphs.reshaped(x, (1, math.prod(x.shape[:-1]), x.shape[-1]))
        normed = self.graphs.op(
            "RMSNormalization",
            [flat, gain],
            f"{name}.normed",
            flat.shape,
            real=name.startswith(f"{self.scanned}."),
            axis=-1,
            epsilon=eps,
        )
        return self.graphs.reshaped(normed, x.shape)

    def split(self, x: Value, widths: Sequence[int]) -> tuple[Value, ...]:
        return tuple(self.graphs.apart(x, widths, self._new("split")))

    def split_heads(self, x: Value, heads: int) -> Value:
        """[1, T, H * d] -> [1, H, T, d]"""
        apart = (1, self.attention.window.tokens, heads, x.shape[-1] // heads)
        return self.graphs.turned(self.graphs.reshaped(x, apart), (0, 2, 1, 3))

    def rope(self, x: Value, rope: Rope) -> Value:
        return self.attention.rotated(x, rope, self._new("rope"))

    def attend(self, q: Value, k: Value, v: Value, layer: int, kind: Attention) -> Value:
        return self.attention.attend(q, k, v, layer, kind, self._new("attention"))

    def add(self, x: Value, y: Value) -> Value:
        real = x.real or y.real
        return self.graphs.op("Add", [x, y], self._new("add"), x.shape, real=real)

    def mul(self, x: Value, y: Value) -> Value:
        real = x.real or y.real
        return self.graphs.op("Mul", [x, y], self._new("mul"), x.shape, real=real)

    def scale(self, x: Value, by: float) -> Value:
        at = self._new("scale")
        factor = self.graphs.constant(f"{at}.by", np.array([by], np.float32), real=x.real)
        return self.graphs.op("Mul", [x, factor], at, x.shape, real=x.real)

    def sigmoid(self, x: Value) -> Value:
        return self.graphs.op("Sigmoid", [x], self._new("sigmoid"), x.shape, fixed=UNIT)

    def tanh(self, x: Value) -> Value:
        return self.graphs.op("Tanh", [x], self._new("tanh"), x.shape, fixed=BOTH_WAYS)

    def gelu_tanh(self, x: Value) -> Value:
        return self.graphs.op("Gelu", [x], self._new("gelu"), x.shape, approximate="tanh")

    def route(self, scores: Value, routing: Routing) -> Value:
        return routed(self.graphs, scores, routing, self._new("route"))

    def scale_by_column(self, x: Value, weights: Value, number: int) -> Value:
        at, graph, shape = self._new("weighed"), self.graphs.graph, (*weights.shape[:-1], 1)
        ends = (("start", number), ("end", number + 1), ("axis", len(shape) - 1))
        bounds = [graph.constant(f"cut.{name}.{value}", [value]) for name, value in ends]
        one = self.graphs.op("Slice", [weights, *bounds], f"{at}.weight", shape, like=weights)
        return self.graphs.op("Mul", [x, one], at, x.shape)

    def add_bias(self, x: Value, name: str) -> Value:
        term = self.graphs.constant(name, self.weights.vector(name))
        return self.graphs.op("Add", [x, term], self._new("shifted"), x.shape)

    def softplus(self, x: Value) -> Value:
        return self.scans.softplus(x, self._new("softplus"))

    def conv(self, x: Value, name: str, kernel: int, layer: int, bias: bool) -> Value:
        weight = self.weights.vector(f"{name}.weight").reshape(-1, kernel)
        found = self.scans.convolved(x, weight, layer, self._new("conv"))
        return self.add_bias(found, f"{name}.bias") if bias else found

    def scan(self, x: Value, step: Value, b: Value, c: Value, layer: int, kind: Scan) -> Value:
        decay, skip = (self.weights.vector(f"{kind.at}.{name}") for name in ("A_log", "D"))
        self.scanned, at, scanned = kind.at, self._new("scan"), self.scans.scanned_by_head
        if kind.by_number:
            decay, scanned = decay.reshape(kind.heads, kind.state), self.scans.scanned_by_number
        given = scanned(x, step, b, c, decay, layer, at)
        whole = np.repeat(skip, x.shape[-1] // kind.heads)
        through = self.mul(x, self.graphs.constant(f"{kind.at}.D", whole))
        return self.add(given, through)

    def tap(self, x: Value, name: str) -> Value:
        if self.debug and self.graphs.ranges is None:
            self.graphs.final(x, TAP + name)
        return x

    def _scaled_linear(self, x: Value, name: str, width: int, bias: bool) -> Value:
        """A linear of a real value: each token divided by a power of two, and multiplied by it
        afterwards, so that small tokens keep as many bits as large ones."""
        op = self.graphs.op
        factor, inverse = factor_of(self.graphs, x, name)
        share = op("Mul", [x, inverse], f"{name}.share", x.shape, fixed=BOTH_WAYS)
        product = self.linear(share, name, width)
        whole = op("Mul", [product, factor], f"{name}.whole", product.shape, real=True)
        return self._biased(whole, name) if bias else whole

    def _biased(self, product: Value, name: str) -> Value:
        vector = self.weights.vector(f"{name}.bias")
        term = self.graphs.constant(f"{name}.bias", vector, real=product.real)
        return self.graphs.op(
            "Add", [product, term], f"{name}.biased", product.shape, real=product.real
        )

    def _enter(self, weight: str) -> None:
        """Values from here on belong to the unit of this weight, whatever the parts are."""
        unit = unit_of(weight, self.attention.spec.layers)
        if self.place != f"layer.{unit}":
            self.place, self.stems = f"layer.{unit}", Counter()
        self.graphs.enter(unit)

    def _new(self, stem: str) -> str:
        """A name that every token count and every cut into parts gives to the same value."""
        self.stems[stem] += 1
        return f"{self.place}.{stem}.{self.stems[stem]}"

    def _filled(self, x: Value, width: int) -> Value:
        """Zeros behind the last axis, where a weight's inputs are filled up to whole blocks."""
        if x.shape[-1] == width:
            return x
        shape = (*x.shape[:-1], width)
        zeros = np.zeros((*x.shape[:-1], width - x.shape[-1]), np.float32)
        filler = self.graphs.constant(f"{x.name}.zeros.{x.shape[1]}", zeros, x)
        return self.graphs.op("Concat", [x, filler], f"{x.name}.filled", shape, like=x, axis=-1)
