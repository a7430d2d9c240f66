"""Power-of-two scales per token, which keep all bits of small tokens beside large ones.

A token is divided by the power of two above its largest magnitude and multiplied by it again later.
Both are exact in float16. HTP's Div leaves 65 dB; multiplication by the scale that fits a token
best leaves 74 dB, and is needed twice. The half of the range that a token may leave unused costs
less.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit_onnx.hexagon.lowering.static_graph import Shape, StaticGraphs, Value

# Scales and their inverses are normal numbers of float16.
SCALES: NDArray[np.float64] = np.exp2(np.arange(-14, 15))
INVERSES = 1 / SCALES
ROOM = 0.99  # of a scale that a token may fill: HTP may flush differences below 6e-5 to 0


def power_of_two_scale(graphs: StaticGraphs, x: Value, at: str) -> tuple[Value, Value]:
    """A scale above each token's largest magnitude, and its inverse. [1, T, D] -> [1, T, 1] twice

    Every scale of the table is compared with the token; the smallest one that is large enough is
    found as the largest successor of those that are too small.
    """
    graph, per_scale = graphs.graph, (*x.shape[:-1], len(SCALES))
    axes = graph.constant("axes.-1", [-1])

    def op(name: str, inputs: list[Value | str], output: str, shape: Shape) -> Value:
        attributes: dict[str, Any] = {"keepdims": 1} if name.startswith("Reduce") else {}
        return graphs.op(name, inputs, f"{at}.{output}", shape, unquantized=True, **attributes)

    def constant(name: str, numbers: NDArray[np.float64]) -> Value:
        return graphs.constant(f"factors.{name}", numbers.astype(np.float32), unquantized=True)

    def maximum(numbers: Value, lower_bound: float, name: str) -> Value:
        largest = op("ReduceMax", [numbers, axes], f"{name}.greatest", (*x.shape[:-1], 1))
        bound = constant(f"least.{name}", np.array([lower_bound]))
        return op("Max", [largest, bound], name, largest.shape)

    magnitude = op("Abs", [x], "size", x.shape)
    largest = op("ReduceMax", [magnitude, axes], "most", (*x.shape[:-1], 1))
    excess = op("Sub", [largest, constant("room", ROOM * SCALES)], "apart", per_scale)
    signs = op("Sign", [excess], "signs", per_scale)
    too_small = op("Relu", [signs], "small", per_scale)  # 1 for scales that are too small, else 0
    large_enough = op("Sub", [constant("one", np.ones(1)), too_small], "right", per_scale)
    successors = constant("next", np.append(SCALES[1:], SCALES[-1]))
    scales = op("Mul", [too_small, successors], "grown", per_scale)
    inverses = op("Mul", [large_enough, constant("inverses", INVERSES)], "shares", per_scale)
    return maximum(scales, SCALES[0], "factor"), maximum(inverses, INVERSES[-1], "inverse")
