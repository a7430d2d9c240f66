"""Tensor expressions of the kernels of dense layers, with dequantization inside the kernel.

Each function builds one expression, which becomes one kernel: dequantization, product, bias. No
kernel writes a buffer as large as a weight. Sums are accumulated in float32.

Shapes: b sequences, T tokens, K inputs and N outputs of a linear, D model width, H query heads,
G kv heads, d head width. Names of expressions, and the parameter names of the inner functions (TVM
takes them as names of loop variables), land in the compiled library: renaming them changes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import te, tirx

from slmkit_mlc.params import K_MAJOR, WORD, Matrix

Te = Any  # a te.Tensor
Expr = Any  # a tirx expression


def dequantizer(matrix: Matrix, stored: list[Te], dtype: str) -> Callable[[Expr, Expr], Expr]:
    """A function (row, input) -> the weight there, as an expression of ``weight_dtype``.

    ``stored``: the parameters of ``matrix``, in their order. A symmetric code of four bits has at
    most three significant bits and a scale at most eight, so their product has at most eleven, and
    float16 holds it exactly.
    """
    target = weight_dtype(matrix, dtype)
    if matrix.scheme.bits is None:
        return lambda row, at: _load(matrix, stored[0], row, at).astype(target)
    per_word, bits = WORD // matrix.scheme.bits, matrix.scheme.bits
    words, scales = stored[0], stored[1]

    def weight_at(row: Any, at: Any) -> Any:
        word = _load(matrix, words, row, at // per_word)
        shift = (at % per_word * bits).astype("uint32")
        mask = tirx.const((1 << bits) - 1, "uint32")
        code = tirx.bitwise_and(tirx.shift_right(word, shift), mask)
        group = at // matrix.group_size
        scale = _load(matrix, scales, row, group).astype(target)
        if matrix.scheme.symmetric:
            zero_point = tirx.const(matrix.zero_point, target)
        else:
            zero_point = _load(matrix, stored[2], row, group).astype(target)
        return (code.astype(target) - zero_point) * scale

    return weight_at


def weight_dtype(matrix: Matrix, dtype: str) -> str:
    """float16 if it holds every weight of the matrix exactly and ``dtype`` is float16; float32."""
    scheme = matrix.scheme
    exact = scheme.bits is None or (scheme.bits == 4 and scheme.symmetric)
    return "float16" if exact and dtype == "float16" else "float32"


def matmul(matrix: Matrix, out: str, x: Te, stored: list[Te], bias: Te | None = None) -> Te:
    """x @ weight.T (+ bias), accumulated in float32 and stored as ``out``. [b, T, K] -> [b, T, N]

    ``stored``: the parameters of ``matrix``, in their order.
    """
    batch, tokens, _ = x.shape
    rows, width = matrix.rows, matrix.width
    weight_at = dequantizer(matrix, stored, x.dtype)
    if matrix.layout == K_MAJOR:
        weight = te.compute((width, rows), lambda at, row: weight_at(row, at), name="dequantize")
    else:
        weight = te.compute((rows, width), weight_at, name="dequantize")
    at = te.reduce_axis((0, width), name="k")

    def term(b: Any, t: Any, row: Any) -> Any:
        factor = weight[at, row] if matrix.layout == K_MAJOR else weight[row, at]
        return te.sum(x[b, t, at].astype("float32") * factor.astype("float32"), axis=at)

    product = te.compute((batch, tokens, rows), term, name="matmul")
    if bias is None and out == "float32":
        return product

    def finished(b: Any, t: Any, row: Any) -> Any:
        value = product[b, t, row]
        if bias is not None:
            value = value + bias[row].astype("float32")
        return value.astype(out)

    return te.compute((batch, tokens, rows), finished, name="finish")


def take_rows(matrix: Matrix, dtype: str, ids: Te, stored: list[Te]) -> Te:
    """Dequantized rows of an embedding for token ids. [T] int32 -> [T, K]"""
    weight_at = dequantizer(matrix, stored, dtype)
    return te.compute(
        (ids.shape[0], matrix.width),
        lambda token, at: weight_at(ids[token], at).astype(dtype),
        name="take",
    )


def rms_norm(eps: float, out: str, x: Te, weight: Te) -> Te:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in float32, stored as ``out``."""
    width, at = x.shape[-1], te.reduce_axis((0, x.shape[-1]), name="k")

    def square(*row: Any) -> Any:
        value = x(*row, at).astype("float32")
        return te.sum(value * value, axis=at)

    squares = te.compute(x.shape[:-1], square, name="squares")

    def one(*places: Any) -> Any:
        *row, last = places
        scale = te.rsqrt(squares(*row) / constant(int(width)) + constant(eps))
        value = x(*places).astype("float32") * scale * weight[last].astype("float32")
        return value.astype(out)

    return te.compute(x.shape, one, name="rms_norm")


def add(x: Te, y: Te) -> Te:
    """x + y, computed and stored in float32."""
    return te.compute(
        x.shape, lambda *at: x(*at).astype("float32") + y(*at).astype("float32"), name="total"
    )


def silu(x: Te) -> Te:
    """x * sigmoid(x), computed in float32."""
    return _elementwise(x, lambda value: value / (constant(1) + te.exp(-value)), "silu")


def sigmoid(x: Te) -> Te:
    """1 / (1 + exp(-x)), computed in float32."""
    return _elementwise(x, lambda value: constant(1) / (1 + te.exp(-value)), "sigmoid")


def tanh(x: Te) -> Te:
    """Hyperbolic tangent, computed in float32."""
    return _elementwise(x, _tanh, "tanh")


def gelu_tanh(x: Te) -> Te:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), computed in float32."""

    def gelu(value: Any) -> Any:
        cubic = value + constant(0.044715) * value * value * value
        inner = cubic * constant(math.sqrt(2 / math.pi))
        return constant(0.5) * value * (constant(1) + _tanh(inner))

    return _elementwise(x, gelu, "gelu_tanh")


def softplus(x: Te) -> Te:
    """log(1 + exp(x)), computed and stored in float32, because a scan exponentiates its steps."""

    def one(*at: Any) -> Any:
        value = x(*at).astype("float32")
        positive = tirx.if_then_else(value > 0, value, constant(0))
        return positive + te.log(constant(1) + te.exp(-te.abs(value)))

    return te.compute(x.shape, one, name="softplus")


def add_vector(x: Te, vector: Te) -> Te:
    """x plus a vector, computed in float32. [b, T, D], [D] -> [b, T, D]"""

    def one(b: Any, t: Any, at: Any) -> Any:
        return (x[b, t, at].astype("float32") + vector[at].astype("float32")).astype(x.dtype)

    return te.compute(x.shape, one, name="shifted")


def row_ends(x: Te) -> Te:
    """Index of the last token of each row, counted over all rows. [b, T, D] -> [b] int32"""
    tokens = x.shape[1]
    shape = (x.shape[0],)
    return te.compute(shape, lambda b: ((b + 1) * tokens - 1).astype("int32"), name="row_ends")


def multiply_by(x: Te, factor: float) -> Te:
    """x times a number, computed in float32."""
    return _elementwise(x, lambda value: value * constant(factor), "scaled")


def rotate(magnitude: float, x: Te, positions: Te, frequencies: Te) -> Te:
    """Apply RoPE to each head at its token's position, in float32.

    x [b, T, H, d], positions [b * T], frequencies [pairs] -> [b, T, H, d]. Numbers of a head beyond
    the first 2 * pairs are copied.
    """
    half, tokens = int(frequencies.shape[0]), x.shape[1]

    def one(b: Any, t: Any, head: Any, at: Any) -> Any:
        position = positions[b * tokens + t].astype("float32")
        angle = position * frequencies[at % half]
        value = x[b, t, head, at].astype("float32")
        partner = tirx.if_then_else(
            at < half, -x[b, t, head, at + half], x[b, t, head, at - half]
        ).astype("float32")
        turned = (te.cos(angle) * value + te.sin(angle) * partner) * constant(magnitude)
        return tirx.if_then_else(at < 2 * half, turned, value).astype(x.dtype)

    return te.compute(x.shape, one, name="rotated")


def scale_by_column(x: Te, weights: Te, column: int) -> Te:
    """x times one column of the weights, in float32. [b, T, D], [b, T, E] -> [b, T, D]"""

    def one(b: Any, t: Any, at: Any) -> Any:
        value = x[b, t, at].astype("float32") * weights[b, t, column].astype("float32")
        return value.astype(x.dtype)

    return te.compute(x.shape, one, name="weighed")


def slice_columns(x: Te, first: int, width: int) -> Te:
    """``width`` columns from column ``first`` on. [b, T, N] -> [b, T, width]"""
    shape = (x.shape[0], x.shape[1], width)
    return te.compute(shape, lambda b, t, at: x[b, t, first + at], name="part")


def last_token(x: Te) -> Te:
    """The last token's vector. [1, T, D] -> [1, 1, D]"""
    shape = (1, 1, x.shape[2])
    return te.compute(shape, lambda b, _, at: x[b, x.shape[1] - 1, at], name="last")


def take_positions(x: Te, positions: Te) -> Te:
    """Vectors of the tokens at some positions of one row. [1, T, D], [b] -> [1, b, D]"""
    shape = (1, positions.shape[0], x.shape[2])
    return te.compute(shape, lambda b, at, d: x[b, positions[at], d], name="taken")


def concat_heads(q: Te, k: Te, v: Te) -> Te:
    """Heads of q, then k, then v. [b, T, H, d], [b, T, G, d] twice -> [b, T, H + 2G, d]"""
    heads, kv_heads = int(q.shape[2]), int(k.shape[2])

    def head(b: Any, t: Any, h: Any, at: Any) -> Any:
        in_k = tirx.if_then_else(
            h < heads + kv_heads, k[b, t, h - heads, at], v[b, t, h - heads - kv_heads, at]
        )
        return tirx.if_then_else(h < heads, q[b, t, h, at], in_k)

    shape = (q.shape[0], q.shape[1], heads + 2 * kv_heads, q.shape[3])
    return te.compute(shape, head, name="joined")


def constant(number: float) -> Any:
    """A number as a float32 constant."""
    return tirx.const(number, "float32")


def _elementwise(x: Te, function: Callable[[Expr], Expr], name: str) -> Te:
    """Apply a function of a float32 number to each number of x, stored in the type of x."""

    def one(*at: Any) -> Any:
        return function(x(*at).astype("float32")).astype(x.dtype)

    return te.compute(x.shape, one, name=name)


def _tanh(x: Any) -> Any:
    """1 - 2 / (exp(2 x) + 1). TVM's own tanh becomes Metal code that its passes reject.

    (0.27.0.post1: a variable is used before its definition.)
    """
    return constant(1) - constant(2) / (te.exp(constant(2) * x) + constant(1))


def _load(matrix: Matrix, stored: Te, row: Any, at: Any) -> Any:
    """A number of a stored parameter of the matrix, whose layout orders the two indices."""
    return stored[at, row] if matrix.layout == K_MAJOR else stored[row, at]
