"""Tensor expressions of experts: a kernel reads the rows of the chosen ones, and no others."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from slmkit_mlc.kernels.dense import constant, dequantized
from slmkit_mlc.params import Matrix

Te = Any  # a te.Tensor


def ranked(probabilities: Te) -> Te:
    """How many of the last axis come before each; of equals, the first does. [b, T, E], int32"""

    def rank(b: Any, t: Any, at: Any) -> Any:
        here, total = probabilities[b, t, at], tirx.const(0, "int32")
        for other in range(int(probabilities.shape[2])):  # dlight has no rule for it as a reduction
            there = probabilities[b, t, other]
            first = tirx.any(there > here, tirx.all(there == here, tirx.const(other) < at))
            total += first.astype("int32")
        return total

    return te.compute(probabilities.shape, rank, name="ranks")


def best_kept(chosen: int, probabilities: Te, ranks: Te) -> Te:
    """The best, and 0 for the others. [b, T, E]"""

    def kept(*at: Any) -> Any:
        return tirx.if_then_else(ranks(*at) < chosen, probabilities(*at), constant(0))

    return te.compute(probabilities.shape, kept, name="kept")


def best_named(chosen: int, ranks: Te) -> Te:
    """Numbers of the best, the best first. [b, T, E] -> [b, T, chosen] int32"""

    def named(b: Any, t: Any, at: Any) -> Any:
        total = tirx.const(0, "int32")
        for number in range(1, int(ranks.shape[2])):
            total += number * (ranks[b, t, number] == at).astype("int32")
        return total

    return te.compute((*ranks.shape[:2], chosen), named, name="named")


def grown(matrix: Matrix, wide: int, x: Te, named: Te, stored: list[Te]) -> Te:
    """Gate and up of each chosen expert. [b, T, D] -> [b, T, chosen, 2 F]"""
    number = dequantized(matrix, stored, x.dtype)
    at = te.reduce_axis((0, matrix.width), name="k")

    def one(b: Any, t: Any, j: Any, row: Any) -> Any:
        weight = number(named[b, t, j] * (2 * wide) + row, at).astype("float32")
        return te.sum(x[b, t, at].astype("float32") * weight, axis=at)

    return te.compute((*named.shape, 2 * wide), one, name="grown")


def gated(dtype: str, both: Te) -> Te:
    """silu(gate) * up, computed in float32. [b, T, chosen, 2 F] -> [b, T, chosen, F]"""
    wide = int(both.shape[3]) // 2

    def one(b: Any, t: Any, j: Any, at: Any) -> Any:
        gate, up = both[b, t, j, at], both[b, t, j, at + wide]
        return (gate / (constant(1) + te.exp(-gate)) * up).astype(dtype)

    return te.compute((*both.shape[:3], wide), one, name="gated")


def shrunk(matrix: Matrix, width: int, inner: Te, named: Te, stored: list[Te]) -> Te:
    """Down of each chosen expert. [b, T, chosen, F] -> [b, T, chosen, D] float32"""
    number = dequantized(matrix, stored, inner.dtype)
    at = te.reduce_axis((0, matrix.width), name="k")

    def one(b: Any, t: Any, j: Any, row: Any) -> Any:
        weight = number(named[b, t, j] * width + row, at).astype("float32")
        return te.sum(inner[b, t, j, at].astype("float32") * weight, axis=at)

    return te.compute((*named.shape, width), one, name="shrunk")


def joined(dtype: str, given: Te, named: Te, weights: Te) -> Te:
    """What the chosen give, times their weights. [b, T, chosen, D], [b, T, E] -> [b, T, D]"""

    def one(b: Any, t: Any, at: Any) -> Any:
        total = constant(0)
        for j in range(int(named.shape[2])):
            total += given[b, t, j, at] * weights[b, t, named[b, t, j]]
        return total.astype(dtype)

    return te.compute((*given.shape[:2], given.shape[3]), one, name="joined")
