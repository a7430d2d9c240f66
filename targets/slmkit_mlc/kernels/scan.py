"""Kernels of recurrent layers: causal convolution and selective scan.

Each thread computes one channel of one sequence, token after token, in float32. Shapes: L tokens of
all sequences, one sequence after the other; S sequences; D channels; K convolution taps; H heads of
P channels; N numbers of scan state. ``ends`` (S,) has the index of each sequence's last token.
Names inside the PrimFuncs become names in the compiled library.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from slmkit.ops import Scan


def _first_token(ends: Any, sequence: Any) -> Any:
    """Index of a sequence's first token; ``ends`` is never read out of bounds."""
    after_previous = ends[tirx.max(sequence - 1, 0)] + 1
    return tirx.if_then_else(sequence == 0, tirx.const(0, "int32"), after_previous)


def _token(ends: Any, sequence: Any, number: Any) -> Any:
    """Index of token ``number`` of a sequence."""
    return _first_token(ends, sequence) + number


def convolution(channels: int, kernel: int, dtype: str) -> Any:
    """A PrimFunc of a causal convolution of each channel by itself.

    x [L, D], weight [D * K], ends [S], state [S, D * (K - 1)] -> y [L, D] of ``dtype`` and the next
    state. The state is x of the last K - 1 tokens.
    """
    past = kernel - 1

    def x_at(x: Any, state: Any, s: Any, d: Any, token: Any, first: Any) -> Any:
        """Channel d of a token of sequence s; tokens before ``first`` come from the state."""
        inside = x[tirx.max(token, 0), d].astype("float32")
        before = state[s, d * past + tirx.min(token - first + past, past - 1)]
        return tirx.if_then_else(token >= first, inside, before)

    def y_at(x: Any, weight: Any, state: Any, s: Any, d: Any, token: Any, first: Any) -> Any:
        """Channel d of the output at a token of sequence s."""
        total = tirx.const(0, "float32")
        for j in range(kernel):
            tap = weight[d * kernel + j].astype("float32")
            total = total + tap * x_at(x, state, s, d, token - past + j, first)
        return total.astype(dtype)

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
                for i in range(ends[s] + 1 - _first_token(ends, s)):
                    y[_token(ends, s, i), d] = y_at(
                        x, weight, state, s, d, _token(ends, s, i), _first_token(ends, s)
                    )
                for k in range(past):
                    after[s, d * past + k] = x_at(
                        x, state, s, d, ends[s] + 1 - past + k, _first_token(ends, s)
                    )

    return conv


def _float32(number: Any) -> Any:
    """A number converted to float32."""
    return number.astype("float32")


def _next_state(state: Any, step: Any, rate: Any, b: Any, x: Any) -> Any:
    """state * exp(step * rate) + step * b * x"""
    return state * tirx.exp(step * rate) + step * _float32(b) * _float32(x)


def selective_scan(kind: Scan, channels: int, dtype: str, bc_dtype: str) -> Any:
    """A PrimFunc of the recurrence that ``Ops.scan`` defines.

    x [L, H * P], step [L, H], b and c [L, N], decay [H * N] or [H], skip [H], ends [S], state
    [S, H * N * P] -> y [L, H * P] and the next state. x and y are of type ``dtype``, b and c of
    ``bc_dtype``, decay and skip float16, step and state float32.
    """
    heads, size = kind.heads, kind.state
    width = channels // heads
    rates = heads * size if kind.by_number else heads

    def rate(decay: Any, h: Any, n: Any) -> Any:
        """Decay rate of state number n of head h: one for each number, or one for a head."""
        return _float32(decay[h * size + n] if kind.by_number else decay[h])

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
        b = T.match_buffer(b_, (length, size), bc_dtype)
        c = T.match_buffer(c_, (length, size), bc_dtype)
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
                for i in range(ends[s] + 1 - _first_token(ends, s)):
                    total[0] = _float32(skip[d // width]) * _float32(x[_token(ends, s, i), d])
                    for n in range(size):
                        now[n] = _next_state(
                            now[n],
                            step[_token(ends, s, i), d // width],
                            rate(decay, d // width, n),
                            b[_token(ends, s, i), n],
                            x[_token(ends, s, i), d],
                        )
                        total[0] = total[0] + _float32(c[_token(ends, s, i), n]) * now[n]
                    y[_token(ends, s, i), d] = total[0].astype(dtype)
                for n in range(size):
                    after[s, (d // width * size + n) * width + d % width] = now[n]

    return scan
