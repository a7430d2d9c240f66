"""Kernels of layers that scan: each thread follows one channel of one sequence through its tokens.

Tokens of all sequences lie one after the other, [L, ...]; ``ends`` has the last token of each.
All is computed in float32.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from slmkit.ops import Scan


def _begin(ends: Any, sequence: Any) -> Any:
    """A sequence's first token; the index stays inside for sequence 0 too."""
    before = ends[tirx.max(sequence - 1, 0)] + 1
    return tirx.if_then_else(sequence == 0, tirx.const(0, "int32"), before)


def convolution(channels: int, kernel: int, dtype: str) -> Any:
    """x [L, D], weight [D * K], ends [S], state [S, D * (K - 1)] -> [L, D], and the
    state: the last K - 1 tokens' x."""
    past = kernel - 1

    def at(x: Any, state: Any, s: Any, d: Any, token: Any, first: Any) -> Any:
        """Channel d of a token of sequence s, or of one before its first token here."""
        inside = x[tirx.max(token, 0), d].astype("float32")
        before = state[s, d * past + tirx.min(token - first + past, past - 1)]
        return tirx.if_then_else(token >= first, inside, before)

    def total(x: Any, weight: Any, state: Any, s: Any, d: Any, token: Any, first: Any) -> Any:
        sums = tirx.const(0, "float32")
        for j in range(kernel):
            number = weight[d * kernel + j].astype("float32")
            sums = sums + number * at(x, state, s, d, token - past + j, first)
        return sums.astype(dtype)

    @T.prim_func(s_tir=True)
    def conv(
        x_: T.handle,
        weight: T.Buffer((channels * kernel,), "float16"),
        ends_: T.handle,
        state_: T.handle,
        y_: T.handle,
        after_: T.handle,
    ):
        T.func_attr({"op_pattern": 8, "tirx.noalias": True})
        length, sequences = T.int32(), T.int32()
        x = T.match_buffer(x_, (length, channels), dtype)
        ends = T.match_buffer(ends_, (sequences,), "int32")
        state = T.match_buffer(state_, (sequences, channels * past), "float32")
        y = T.match_buffer(y_, (length, channels), dtype)
        after = T.match_buffer(after_, (sequences, channels * past), "float32")
        for each in T.grid(sequences, channels):
            with T.sblock("conv"):
                s, d = T.axis.remap("SS", each)
                for i in range(ends[s] + 1 - _begin(ends, s)):
                    y[_begin(ends, s) + i, d] = total(
                        x, weight, state, s, d, _begin(ends, s) + i, _begin(ends, s)
                    )
                for k in range(past):
                    after[s, d * past + k] = at(
                        x, state, s, d, ends[s] + 1 - past + k, _begin(ends, s)
                    )

    return conv


def selective_scan(kind: Scan, channels: int, dtype: str, other: str) -> Any:
    """x [L, H * P], step [L, H], b and c [L, N], decay [H * N] or [H], skip [H], ends [S], state
    [S, H * N * P] -> [L, H * P], and the state. Source: ``Ops.scan``. ``dtype``: of x and what is
    given; ``other``: of b and c."""
    heads, size = kind.heads, kind.state
    width = channels // heads
    rates = heads * size if kind.by_number else heads

    def wide(number: Any) -> Any:
        return number.astype("float32")

    def rate(decay: Any, h: Any, n: Any) -> Any:
        return wide(decay[h * size + n] if kind.by_number else decay[h])

    @T.prim_func(s_tir=True)
    def scan(
        x_: T.handle,
        step_: T.handle,
        b_: T.handle,
        c_: T.handle,
        decay: T.Buffer((rates,), "float16"),
        skip: T.Buffer((heads,), "float16"),
        ends_: T.handle,
        state_: T.handle,
        y_: T.handle,
        after_: T.handle,
    ):
        T.func_attr({"op_pattern": 8, "tirx.noalias": True})
        length, sequences = T.int32(), T.int32()
        x = T.match_buffer(x_, (length, channels), dtype)
        step = T.match_buffer(step_, (length, heads), "float32")
        b = T.match_buffer(b_, (length, size), other)
        c = T.match_buffer(c_, (length, size), other)
        ends = T.match_buffer(ends_, (sequences,), "int32")
        state = T.match_buffer(state_, (sequences, heads * size * width), "float32")
        y = T.match_buffer(y_, (length, channels), dtype)
        after = T.match_buffer(after_, (sequences, heads * size * width), "float32")
        for each in T.grid(sequences, channels):
            with T.sblock("scan"):
                s, d = T.axis.remap("SS", each)
                now = T.sblock_alloc_buffer((size,), "float32", scope="local")
                total = T.sblock_alloc_buffer((1,), "float32", scope="local")
                for n in range(size):
                    now[n] = state[s, (d // width * size + n) * width + d % width]
                for i in range(ends[s] + 1 - _begin(ends, s)):
                    total[0] = wide(skip[d // width]) * wide(x[_begin(ends, s) + i, d])
                    for n in range(size):
                        now[n] = now[n] * T.exp(
                            step[_begin(ends, s) + i, d // width] * rate(decay, d // width, n)
                        ) + step[_begin(ends, s) + i, d // width] * wide(
                            b[_begin(ends, s) + i, n]
                        ) * wide(x[_begin(ends, s) + i, d])
                        total[0] = total[0] + wide(c[_begin(ends, s) + i, n]) * now[n]
                    y[_begin(ends, s) + i, d] = total[0].astype(dtype)
                for n in range(size):
                    after[s, (d // width * size + n) * width + d % width] = now[n]

    return scan
