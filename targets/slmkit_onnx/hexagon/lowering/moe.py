"""Routing among experts, in operations that HTP takes."""

from __future__ import annotations

import numpy as np

from slmkit.ops import Routing
from slmkit_onnx.hexagon.lowering.encodings import UNIT
from slmkit_onnx.hexagon.lowering.static_graph import StaticGraphs, Value


def routed(graphs: StaticGraphs, scores: Value, routing: Routing, at: str) -> Value:
    """Weights of the experts, (1, T, E): 0 for those that are not among the best.

    An expert is chosen if fewer than ``chosen`` score higher: E * E comparisons, each the sign of
    a difference of integers on one grid, which is exact. TopK would leave indices to scatter by.
    """
    _, tokens, count = scores.shape
    square = (1, tokens, count, count)
    one, other = (
        graphs.reshaped(scores, shape) for shape in ((1, tokens, 1, count), (1, tokens, count, 1))
    )
    higher = graphs.op("Sub", [one, other], f"{at}.higher", square)
    signs = graphs.op("Sign", [higher], f"{at}.signs", square)
    above = graphs.op("Relu", [signs], f"{at}.above", square, fixed=UNIT)
    axes = graphs.graph.constant("axes.3", [3])
    ranks = graphs.op("ReduceSum", [above, axes], f"{at}.ranks", scores.shape, keepdims=0)
    limit = graphs.constant(f"{at}.limit", np.array([routing.chosen], np.float32))
    room = graphs.op("Sub", [limit, ranks], f"{at}.room", scores.shape)
    chosen = graphs.op("Clip", [room, *_bounds(graphs)], f"{at}.chosen", scores.shape, fixed=UNIT)
    probabilities = graphs.op(
        "Softmax", [scores], f"{at}.chances", scores.shape, fixed=UNIT, axis=-1
    )
    kept = graphs.op("Mul", [probabilities, chosen], f"{at}.kept", scores.shape)
    if not routing.normalized:
        return kept
    last = graphs.graph.constant("axes.2", [2])
    total = graphs.op("ReduceSum", [kept, last], f"{at}.total", (1, tokens, 1), keepdims=1)
    return graphs.op("Div", [kept, total], f"{at}.share", scores.shape, fixed=UNIT)


def _bounds(graphs: StaticGraphs) -> list[str]:
    graph = graphs.graph
    return [graph.constant(f"bound.{value}", float(value), np.float32) for value in (0, 1)]
