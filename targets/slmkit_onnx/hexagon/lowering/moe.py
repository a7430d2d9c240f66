"""Routing of a mixture of experts, in operations that HTP supports."""

from __future__ import annotations

import numpy as np

from slmkit.ops import Routing
from slmkit_onnx.hexagon.lowering.encodings import ZERO_TO_ONE
from slmkit_onnx.hexagon.lowering.static_graph import StaticGraphs, Value


def expert_weights(graphs: StaticGraphs, scores: Value, routing: Routing, at: str) -> Value:
    """Weights of the experts, 0 for those that are not chosen. (1, T, E) -> (1, T, E)

    An expert is chosen if fewer than ``chosen`` experts score higher: E * E comparisons, each the
    sign of a difference of integers with one scale, which is exact. TopK would need a scatter by
    its indices.
    """
    _, tokens, count = scores.shape
    pairs = (1, tokens, count, count)
    others = graphs.reshape(scores, (1, tokens, 1, count))
    own = graphs.reshape(scores, (1, tokens, count, 1))
    difference = graphs.op("Sub", [others, own], f"{at}.higher", pairs)
    signs = graphs.op("Sign", [difference], f"{at}.signs", pairs)
    is_higher = graphs.op("Relu", [signs], f"{at}.above", pairs, encoding=ZERO_TO_ONE)
    axes = graphs.graph.constant("axes.3", [3])
    rank = graphs.op("ReduceSum", [is_higher, axes], f"{at}.ranks", scores.shape, keepdims=0)
    limit = graphs.constant(f"{at}.limit", np.array([routing.chosen], np.float32))
    margin = graphs.op("Sub", [limit, rank], f"{at}.room", scores.shape)
    is_chosen = graphs.op(
        "Clip", [margin, *_bounds(graphs)], f"{at}.chosen", scores.shape, encoding=ZERO_TO_ONE
    )
    probabilities = graphs.op(
        "Softmax", [scores], f"{at}.chances", scores.shape, encoding=ZERO_TO_ONE, axis=-1
    )
    weights = graphs.op("Mul", [probabilities, is_chosen], f"{at}.kept", scores.shape)
    if not routing.normalized:
        return weights
    last = graphs.graph.constant("axes.2", [2])
    total = graphs.op("ReduceSum", [weights, last], f"{at}.total", (1, tokens, 1), keepdims=1)
    return graphs.op("Div", [weights, total], f"{at}.share", scores.shape, encoding=ZERO_TO_ONE)


def _bounds(graphs: StaticGraphs) -> list[str]:
    """0 and 1 as constants."""
    graph = graphs.graph
    return [graph.constant(f"bound.{value}", float(value), np.float32) for value in (0, 1)]
