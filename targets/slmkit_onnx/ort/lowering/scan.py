"""Layers that scan, by two operations of ONNX Runtime: no loop, whatever the number of tokens.

A selective scan is gated linear attention: keys B, values step * x, queries C, and a decay
exp(step * A) for each head, or for each number of its state.
"""

from __future__ import annotations

import numpy as np

from slmkit.ops import Scan
from slmkit_onnx.graph import MICROSOFT, Graph
from slmkit_onnx.ort.contract import state_names
from slmkit_onnx.ort.lowering.value import Value
from slmkit_onnx.ort.lowering.weights import WeightWriter


class ScanWriter:
    """Writes the layers' convolutions and scans."""

    def __init__(self, graph: Graph, weights: WeightWriter) -> None:
        self.graph, self.weights = graph, weights

    def convolved(self, x: Value, name: str, kernel: int, layer: int, bias: bool) -> str:
        """[batch, T, D]; the state is [batch, D, K - 1]."""
        graph, (past, present) = self.graph, state_names("conv", layer)
        stored = self.weights.codes.vector(f"{name}.weight").reshape(-1, 1, kernel)
        inputs = [self._turned(x.name, f"{past}.x"), graph.floats(f"{name}.weight", stored)]
        inputs += [self.weights.vector(f"{name}.bias") if bias else "", past]
        output = f"layer.{layer}.convolved"
        graph.nodes_out("CausalConvWithState", inputs, [output, present], MICROSOFT)
        return self._turned(output, f"{output}.back")

    def scanned(self, x: Value, step: Value, b: Value, c: Value, layer: int, kind: Scan) -> str:
        """x [batch, T, H * P], step [batch, T, H], b and c [batch, T, N]."""
        graph, at, (past, present) = self.graph, f"layer.{layer}.scan", state_names("scan", layer)
        share = x.shape[0] // kind.heads
        weighed = self._weighed(x, step, share, kind.heads, at)
        repeats = graph.constant(f"repeats.{kind.heads}", [1, 1, kind.heads])
        keys = graph.node("Tile", [b.name, repeats], f"{at}.keys")
        queries = graph.node("Tile", [c.name, repeats], f"{at}.queries")
        decay = self._decay(step, kind, at)
        given = f"{at}.given"
        graph.nodes_out(
            "LinearAttention",
            [queries, keys, weighed, past, decay],
            [given, present],
            MICROSOFT,
            q_num_heads=kind.heads,
            kv_num_heads=kind.heads,
            update_rule="gated",
            scale=1.0,
        )
        skip = np.repeat(self.weights.codes.vector(f"{kind.at}.D"), share)
        through = graph.node("Mul", [x.name, graph.floats(f"{kind.at}.D", skip)], f"{at}.through")
        return graph.node("Add", [given, through], at)

    def _weighed(self, x: Value, step: Value, share: int, heads: int, at: str) -> str:
        """step * x, each step for the P channels of its head."""
        graph = self.graph
        if share == 1:
            return graph.node("Mul", [x.name, step.name], f"{at}.weighed")
        apart = graph.constant(f"heads.{heads}.{share}", [0, 0, heads, share])
        x4 = graph.node("Reshape", [x.name, apart], f"{at}.x4")
        axis = graph.constant("axis.last", [-1])
        step4 = graph.node("Unsqueeze", [step.name, axis], f"{at}.step4")
        whole = graph.node("Mul", [x4, step4], f"{at}.weighed4")
        flat = graph.constant(f"flat.{heads * share}", [0, 0, heads * share])
        return graph.node("Reshape", [whole, flat], f"{at}.weighed")

    def _decay(self, step: Value, kind: Scan, at: str) -> str:
        """step * A: [batch, T, H], or [batch, T, H * N]."""
        graph, decay = self.graph, self.weights.codes.vector(f"{kind.at}.A_log")
        if not kind.by_number:
            rate = graph.floats(f"{kind.at}.A_log", decay)
            return graph.node("Mul", [step.name, rate], f"{at}.decay")
        rate = graph.floats(f"{kind.at}.A_log", decay.reshape(kind.heads, kind.state))
        axis = graph.constant("axis.last", [-1])
        step4 = graph.node("Unsqueeze", [step.name, axis], f"{at}.step4")
        whole = graph.node("Mul", [step4, rate], f"{at}.decay4")
        flat = graph.constant(f"flat.{decay.size}", [0, 0, decay.size])
        return graph.node("Reshape", [whole, flat], f"{at}.decay")

    def _turned(self, x: str, output: str) -> str:
        return self.graph.node("Transpose", [x], output, perm=[0, 2, 1])
