"""Tensor expressions of experts: each kernel reads only the weight rows of the chosen experts.

Shapes: b sequences, T tokens, E experts, k chosen experts, D model width, F feed-forward width.
Names of expressions and of the parameters of their inner functions become names in the compiled
library (see ``slmkit_mlc.kernels.dense``): renaming them changes the artifact.
"""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from slmkit_mlc.kernels.dense import constant, dequantizer
from slmkit_mlc.params import Matrix

Te = Any  # a te.Tensor


def expert_ranks(probabilities: Te) -> Te:
    """Rank of each expert of a token, 0 for the most probable; the first of equals ranks higher.

    [b, T, E] -> [b, T, E] int32
    """

    def rank(b: Any, t: Any, at: Any) -> Any:
        here, total = probabilities[b, t, at], tirx.const(0, "int32")
        for other in range(int(probabilities.shape[2])):  # dlight has no rule for it as a reduction
            there = probabilities[b, t, other]
            first = tirx.any(there > here, tirx.all(there == here, tirx.const(other) < at))
            total += first.astype("int32")
        return total

    return te.compute(probabilities.shape, rank, name="ranks")


def top_k_probabilities(top_k: int, probabilities: Te, ranks: Te) -> Te:
    """Probabilities of the ``top_k`` experts of each token, 0 for the others. [b, T, E]"""

    def mask(*at: Any) -> Any:
        return tirx.if_then_else(ranks(*at) < top_k, probabilities(*at), constant(0))

    return te.compute(probabilities.shape, mask, name="kept")


def top_k_indices(top_k: int, ranks: Te) -> Te:
    """Indices of the ``top_k`` experts, the most probable first. [b, T, E] -> [b, T, k] int32"""

    def index(b: Any, t: Any, at: Any) -> Any:
        total = tirx.const(0, "int32")
        for expert in range(1, int(ranks.shape[2])):
            total += expert * (ranks[b, t, expert] == at).astype("int32")
        return total

    return te.compute((*ranks.shape[:2], top_k), index, name="named")


def gate_up_product(matrix: Matrix, feed_forward: int, x: Te, indices: Te, stored: list[Te]) -> Te:
    """Gate and up projections of each chosen expert. [b, T, D], [b, T, k] -> [b, T, k, 2 F]

    ``stored``: the parameters of ``matrix``, which has the 2 F rows of expert after expert.
    """
    weight_at = dequantizer(matrix, stored, x.dtype)
    at = te.reduce_axis((0, matrix.width), name="k")

    def one(b: Any, t: Any, j: Any, row: Any) -> Any:
        weight = weight_at(indices[b, t, j] * (2 * feed_forward) + row, at).astype("float32")
        return te.sum(x[b, t, at].astype("float32") * weight, axis=at)

    return te.compute((*indices.shape, 2 * feed_forward), one, name="grown")


def silu_gate(dtype: str, gate_up: Te) -> Te:
    """silu(gate) * up, computed in float32, stored as ``dtype``. [b, T, k, 2 F] -> [b, T, k, F]"""
    feed_forward = int(gate_up.shape[3]) // 2

    def one(b: Any, t: Any, j: Any, at: Any) -> Any:
        gate, up = gate_up[b, t, j, at], gate_up[b, t, j, at + feed_forward]
        return (gate / (constant(1) + te.exp(-gate)) * up).astype(dtype)

    return te.compute((*gate_up.shape[:3], feed_forward), one, name="gated")


def down_product(matrix: Matrix, width: int, inner: Te, indices: Te, stored: list[Te]) -> Te:
    """Down projection of each chosen expert. [b, T, k, F], [b, T, k] -> [b, T, k, D] float32

    ``stored``: the parameters of ``matrix``, which has the D rows of expert after expert.
    """
    weight_at = dequantizer(matrix, stored, inner.dtype)
    at = te.reduce_axis((0, matrix.width), name="k")

    def one(b: Any, t: Any, j: Any, row: Any) -> Any:
        weight = weight_at(indices[b, t, j] * width + row, at).astype("float32")
        return te.sum(inner[b, t, j, at].astype("float32") * weight, axis=at)

    return te.compute((*indices.shape, width), one, name="shrunk")


def weighted_sum(dtype: str, outputs: Te, indices: Te, weights: Te) -> Te:
    """Outputs of the chosen experts times their weights, added up and stored as ``dtype``.

    [b, T, k, D], [b, T, k], [b, T, E] -> [b, T, D]
    """

    def one(b: Any, t: Any, at: Any) -> Any:
        total = constant(0)
        for j in range(int(indices.shape[2])):
            total += outputs[b, t, j, at] * weights[b, t, indices[b, t, j]]
        return total.astype(dtype)

    return te.compute((*outputs.shape[:2], outputs.shape[3]), one, name="joined")
