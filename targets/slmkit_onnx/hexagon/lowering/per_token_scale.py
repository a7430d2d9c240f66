"""A token divided by the power of two above its greatest number, and multiplied by it again later.

Both are exact in float16. HTP's Div would leave 65 dB, and a product with a number that fits closer
74, twice; the half of a range that a token may leave unused costs less.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit_onnx.hexagon.lowering.static_graph import StaticGraphs, Value

# Normal numbers of float16, and so are their inverses.
FACTORS: NDArray[np.float64] = np.exp2(np.arange(-14, 15))
INVERSES = 1 / FACTORS
ROOM = 0.99  # of a factor that a token may fill: differences below 6e-5 may come out as 0


def factor_of(graphs: StaticGraphs, x: Value, at: str) -> tuple[Value, Value]:
    """A factor above each token's greatest number, and its inverse. [1, T, D] -> [1, T, 1] twice"""
    graph, wide = graphs.graph, (*x.shape[:-1], len(FACTORS))
    axes = graph.constant("axes.-1", [-1])

    def real(op: str, inputs: list[Value | str], name: str, shape: tuple[int, ...]) -> Value:
        facts: dict[str, Any] = {"keepdims": 1} if op.startswith("Reduce") else {}
        return graphs.op(op, inputs, f"{at}.{name}", shape, real=True, **facts)

    def row(name: str, numbers: NDArray[np.float64]) -> Value:
        return graphs.constant(f"factors.{name}", numbers.astype(np.float32), real=True)

    def greatest(numbers: Value, least: float, name: str) -> Value:
        most = real("ReduceMax", [numbers, axes], f"{name}.greatest", (*x.shape[:-1], 1))
        return real("Max", [most, row(f"least.{name}", np.array([least]))], name, most.shape)

    size = real("Abs", [x], "size", x.shape)
    most = real("ReduceMax", [size, axes], "most", (*x.shape[:-1], 1))
    apart = real("Sub", [most, row("room", ROOM * FACTORS)], "apart", wide)
    small = real("Relu", [real("Sign", [apart], "signs", wide)], "small", wide)  # 1: too small
    right = real("Sub", [row("one", np.ones(1)), small], "right", wide)
    following = row("next", np.append(FACTORS[1:], FACTORS[-1]))
    grown = real("Mul", [small, following], "grown", wide)
    shares = real("Mul", [right, row("inverses", INVERSES)], "shares", wide)
    return greatest(grown, FACTORS[0], "factor"), greatest(shares, INVERSES[-1], "inverse")
