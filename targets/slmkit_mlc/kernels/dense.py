"""Tensor expressions of the kernels that read weights: codes become numbers inside of them.

Each is one expression, so it becomes one kernel: dequantization, product, bias. Nothing that they
write is as large as a weight. Sums are accumulated in float32.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import te, tirx

from slmkit_mlc.params import K_MAJOR, Matrix

Te = Any  # a te.Tensor


def dequantized(matrix: Matrix, stored: list[Te], dtype: str) -> Any:
    """(row, input) -> the number there, as an expression in ``number_type``.

    ``stored``: the matrix's parameters, in their order. Codes of four bits times scales of at most
    eight significant bits have at most eleven, so float16 holds the product exactly.
    """
    wide = number_type(matrix, dtype)
    if matrix.scheme.bits is None:
        return lambda row, at: _at(matrix, stored[0], row, at).astype(wide)
    per_word, bits = 32 // matrix.scheme.bits, matrix.scheme.bits
    words, scales = stored[0], stored[1]

    def number(row: Any, at: Any) -> Any:
        word = _at(matrix, words, row, at // per_word)
        shift = (at % per_word * bits).astype("uint32")
        code = tirx.bitwise_and(
            tirx.shift_right(word, shift), tirx.const((1 << bits) - 1, "uint32")
        )
        group = at // matrix.group
        scale = _at(matrix, scales, row, group).astype(wide)
        if matrix.scheme.symmetric:
            zero = tirx.const(matrix.zero, wide)
        else:
            zero = _at(matrix, stored[2], row, group).astype(wide)
        return (code.astype(wide) - zero) * scale

    return number


def number_type(matrix: Matrix, dtype: str) -> str:
    """Float16 where it holds every number of the matrix exactly, and the program is in float16."""
    scheme = matrix.scheme
    exact = scheme.bits is None or (scheme.bits == 4 and scheme.symmetric)
    return "float16" if exact and dtype == "float16" else "float32"


def product(matrix: Matrix, out: str, x: Te, stored: list[Te], bias: Te | None = None) -> Te:
    """x @ weight.T (+ bias), [b, T, K] -> [b, T, N], summed in float32 and given as ``out``."""
    batch, tokens, _ = x.shape
    rows, width = matrix.rows, matrix.width
    number = dequantized(matrix, stored, x.dtype)
    if matrix.layout == K_MAJOR:
        weight = te.compute((width, rows), lambda at, row: number(row, at), name="dequantize")
    else:
        weight = te.compute((rows, width), number, name="dequantize")
    at = te.reduce_axis((0, width), name="k")

    def term(b: Any, t: Any, row: Any) -> Any:
        each = weight[at, row] if matrix.layout == K_MAJOR else weight[row, at]
        return te.sum(x[b, t, at].astype("float32") * each.astype("float32"), axis=at)

    total = te.compute((batch, tokens, rows), term, name="matmul")
    if bias is None and out == "float32":
        return total

    def finished(b: Any, t: Any, row: Any) -> Any:
        value = total[b, t, row]
        if bias is not None:
            value = value + bias[row].astype("float32")
        return value.astype(out)

    return te.compute((batch, tokens, rows), finished, name="finish")


def rows_of(matrix: Matrix, dtype: str, ids: Te, stored: list[Te]) -> Te:
    """Rows of a table for token ids. [T] -> [T, K]"""
    number = dequantized(matrix, stored, dtype)
    return te.compute(
        (ids.shape[0], matrix.width),
        lambda token, at: number(ids[token], at).astype(dtype),
        name="take",
    )


def rms_norm(eps: float, out: str, x: Te, weight: Te) -> Te:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in float32 and given as ``out``."""
    width, at = x.shape[-1], te.reduce_axis((0, x.shape[-1]), name="k")

    def square(*row: Any) -> Any:
        each = x(*row, at).astype("float32")
        return te.sum(each * each, axis=at)

    squares = te.compute(x.shape[:-1], square, name="squares")

    def one(*places: Any) -> Any:
        *row, last = places
        scale = te.rsqrt(squares(*row) / constant(int(width)) + constant(eps))
        wide = x(*places).astype("float32") * scale * weight[last].astype("float32")
        return wide.astype(out)

    return te.compute(x.shape, one, name="rms_norm")


def total(x: Te, y: Te) -> Te:
    """x + y, computed and given in float32."""
    return te.compute(
        x.shape, lambda *at: x(*at).astype("float32") + y(*at).astype("float32"), name="total"
    )


def silu(x: Te) -> Te:
    """x * sigmoid(x), computed in float32."""
    return _each(x, lambda wide: wide / (tirx.const(1, "float32") + te.exp(-wide)), "silu")


def sigmoid(x: Te) -> Te:
    """1 / (1 + exp(-x)), computed in float32."""
    return _each(x, lambda wide: tirx.const(1, "float32") / (1 + te.exp(-wide)), "sigmoid")


def tanh(x: Te) -> Te:
    """Hyperbolic tangent, computed in float32."""
    return _each(x, _tanh, "tanh")


def gelu_tanh(x: Te) -> Te:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), computed in float32."""

    def one(wide: Any) -> Any:
        inner = (wide + constant(0.044715) * wide * wide * wide) * constant(math.sqrt(2 / math.pi))
        return constant(0.5) * wide * (constant(1) + _tanh(inner))

    return _each(x, one, "gelu_tanh")


def softplus(x: Te) -> Te:
    """log(1 + exp(x)), computed and given in float32: steps of a scan go into exponents."""

    def one(*at: Any) -> Any:
        wide = x(*at).astype("float32")
        above = tirx.if_then_else(wide > 0, wide, constant(0))
        return above + te.log(constant(1) + te.exp(-te.abs(wide)))

    return te.compute(x.shape, one, name="softplus")


def shifted(x: Te, vector: Te) -> Te:
    """x plus a vector, computed in float32. [b, T, D], [D]"""

    def one(b: Any, t: Any, at: Any) -> Any:
        return (x[b, t, at].astype("float32") + vector[at].astype("float32")).astype(x.dtype)

    return te.compute(x.shape, one, name="shifted")


def row_ends(x: Te) -> Te:
    """The last token of each row, counted over all rows. [b, T, D] -> [b] int32"""
    tokens = x.shape[1]
    shape = (x.shape[0],)
    return te.compute(shape, lambda b: ((b + 1) * tokens - 1).astype("int32"), name="row_ends")


def scaled(x: Te, by: float) -> Te:
    """x * by, computed in float32."""
    return _each(x, lambda wide: wide * constant(by), "scaled")


def rotated(magnitude: float, x: Te, positions: Te, frequencies: Te) -> Te:
    """Each head rotated by its token's position, in float32. [b, T, H, d], [b * T], [pairs]"""
    half, tokens = int(frequencies.shape[0]), x.shape[1]

    def one(b: Any, t: Any, head: Any, at: Any) -> Any:
        position = positions[b * tokens + t].astype("float32")
        angle = position * frequencies[at % half]
        here = x[b, t, head, at].astype("float32")
        other = tirx.if_then_else(
            at < half, -x[b, t, head, at + half], x[b, t, head, at - half]
        ).astype("float32")
        turned = (te.cos(angle) * here + te.sin(angle) * other) * constant(magnitude)
        return tirx.if_then_else(at < 2 * half, turned, here).astype(x.dtype)

    return te.compute(x.shape, one, name="rotated")


def weighed(x: Te, weights: Te, number: int) -> Te:
    """x times a column of weights, in float32. [b, T, D], [b, T, E]"""

    def one(b: Any, t: Any, at: Any) -> Any:
        wide = x[b, t, at].astype("float32") * weights[b, t, number].astype("float32")
        return wide.astype(x.dtype)

    return te.compute(x.shape, one, name="weighed")


def part(x: Te, first: int, width: int) -> Te:
    """Some columns. [b, T, N] -> [b, T, width]"""
    shape = (x.shape[0], x.shape[1], width)
    return te.compute(shape, lambda b, t, at: x[b, t, first + at], name="part")


def last_token(x: Te) -> Te:
    """[1, T, D] -> [1, 1, D]"""
    shape = (1, 1, x.shape[2])
    return te.compute(shape, lambda b, _, at: x[b, x.shape[1] - 1, at], name="last")


def positions_taken(x: Te, positions: Te) -> Te:
    """Some tokens of one row. [1, T, D], [b] -> [1, b, D]"""
    shape = (1, positions.shape[0], x.shape[2])
    return te.compute(shape, lambda b, at, d: x[b, positions[at], d], name="taken")


def heads_joined(q: Te, k: Te, v: Te) -> Te:
    """Heads of q, k and v, one after the other. [b, T, H + 2G, d]"""
    heads, kv_heads = int(q.shape[2]), int(k.shape[2])

    def head(b: Any, t: Any, h: Any, at: Any) -> Any:
        in_k = tirx.if_then_else(
            h < heads + kv_heads, k[b, t, h - heads, at], v[b, t, h - heads - kv_heads, at]
        )
        return tirx.if_then_else(h < heads, q[b, t, h, at], in_k)

    shape = (q.shape[0], q.shape[1], heads + 2 * kv_heads, q.shape[3])
    return te.compute(shape, head, name="joined")


def _each(x: Te, function: Any, name: str) -> Te:
    def one(*at: Any) -> Any:
        return function(x(*at).astype("float32")).astype(x.dtype)

    return te.compute(x.shape, one, name=name)


def _tanh(x: Any) -> Any:
    """1 - 2 / (exp(2 x) + 1): TVM's own makes code for Metal that its passes stumble over
    (0.27.0.post1: a variable is used before its definition)."""
    return constant(1) - constant(2) / (te.exp(constant(2) * x) + constant(1))


def constant(number: float) -> Any:
    """A number as float32."""
    return tirx.const(number, "float32")


def _at(matrix: Matrix, stored: Te, row: Any, at: Any) -> Any:
    return stored[at, row] if matrix.layout == K_MAJOR else stored[row, at]
