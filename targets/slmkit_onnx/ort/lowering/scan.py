"""Causal convolutions and selective scans, one ONNX Runtime operation each, without a loop.

A selective scan is gated linear attention: keys B, values step * x, queries C, and a decay
exp(step * A) per head, or per element of the head's state.
"""

from __future__ import annotations

import numpy as np

from slmkit.ops import Scan
from slmkit_onnx.graph import MICROSOFT, Graph
from slmkit_onnx.ort.contract import state_names
from slmkit_onnx.ort.lowering.value import Value
from slmkit_onnx.ort.lowering.weights import WeightWriter


class ScanWriter:
    """Write the layers' convolutions and scans, with their states as graph inputs and outputs."""

    def __init__(self, graph: Graph, weights: WeightWriter) -> None:
        self.graph, self.weights = graph, weights

    def convolution(self, x: Value, name: str, kernel: int, layer: int, bias: bool) -> str:
        """Causal depthwise convolution. [batch, T, D] -> [batch, T, D]; state [batch, D, K - 1]"""
        graph, (past, present) = self.graph, state_names("conv", layer)
        weight = self.weights.codes.vector(f"{name}.weight").reshape(-1, 1, kernel)
        inputs = [
            self._swap_time_and_channels(x.name, f"{past}.x"),
            graph.float_tensor(f"{name}.weight", weight),
            self.weights.vector(f"{name}.bias") if bias else "",
            past,
        ]
        output = f"layer.{layer}.convolved"
        graph.multi_output_node("CausalConvWithState", inputs, [output, present], MICROSOFT)
        return self._swap_time_and_channels(output, f"{output}.back")

    def selective_scan(
        self, x: Value, step: Value, b: Value, c: Value, layer: int, kind: Scan
    ) -> str:
        """Scan plus D * x. x [batch, T, H * P], step [batch, T, H], b and c [batch, T, N]"""
        graph, at, (past, present) = self.graph, f"layer.{layer}.scan", state_names("scan", layer)
        width = x.shape[0] // kind.heads
        values = self._step_times_x(x, step, width, kind.heads, at)
        repeats = graph.constant(f"repeats.{kind.heads}", [1, 1, kind.heads])
        keys = graph.node("Tile", [b.name, repeats], f"{at}.keys")
        queries = graph.node("Tile", [c.name, repeats], f"{at}.queries")
        decay = self._decay(step, kind, at)
        output = f"{at}.given"
        graph.multi_output_node(
            "LinearAttention",
            [queries, keys, values, past, decay],
            [output, present],
            MICROSOFT,
            q_num_heads=kind.heads,
            kv_num_heads=kind.heads,
            update_rule="gated",
            scale=1.0,
        )
        skip_weight = np.repeat(self.weights.codes.vector(f"{kind.at}.D"), width)
        skip_name = graph.float_tensor(f"{kind.at}.D", skip_weight)
        skip = graph.node("Mul", [x.name, skip_name], f"{at}.through")
        return graph.node("Add", [output, skip], at)

    def _step_times_x(self, x: Value, step: Value, width: int, heads: int, at: str) -> str:
        """step * x, a head's step for all its P channels. [batch, T, H * P]"""
        graph = self.graph
        if width == 1:
            return graph.node("Mul", [x.name, step.name], f"{at}.weighed")
        split = graph.constant(f"heads.{heads}.{width}", [0, 0, heads, width])
        x4 = graph.node("Reshape", [x.name, split], f"{at}.x4")
        axis = graph.constant("axis.last", [-1])
        step4 = graph.node("Unsqueeze", [step.name, axis], f"{at}.step4")
        product4 = graph.node("Mul", [x4, step4], f"{at}.weighed4")
        flat = graph.constant(f"flat.{heads * width}", [0, 0, heads * width])
        return graph.node("Reshape", [product4, flat], f"{at}.weighed")

    def _decay(self, step: Value, kind: Scan, at: str) -> str:
        """step * A, the logarithm of the decay: [batch, T, H], or [batch, T, H * N]."""
        graph, decay = self.graph, self.weights.codes.vector(f"{kind.at}.A_log")
        if not kind.by_number:
            rate = graph.float_tensor(f"{kind.at}.A_log", decay)
            return graph.node("Mul", [step.name, rate], f"{at}.decay")
        rate = graph.float_tensor(f"{kind.at}.A_log", decay.reshape(kind.heads, kind.state))
        axis = graph.constant("axis.last", [-1])
        step4 = graph.node("Unsqueeze", [step.name, axis], f"{at}.step4")
        product4 = graph.node("Mul", [step4, rate], f"{at}.decay4")
        flat = graph.constant(f"flat.{decay.size}", [0, 0, decay.size])
        return graph.node("Reshape", [product4, flat], f"{at}.decay")

    def _swap_time_and_channels(self, x: str, output: str) -> str:
        return self.graph.node("Transpose", [x], output, perm=[0, 2, 1])
