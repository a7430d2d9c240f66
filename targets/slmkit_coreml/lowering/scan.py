"""Layers that scan, for all tokens of a chunk at once: channels upright, [1, D, 1, T].

Sums over the past are joined with what lies 1, 2, 4, ... tokens before (Hillis and Steele 1986):
every factor is at most 1, so that float16 neither overflows nor cancels. Chunks are whole: a token
that only fills a chunk up would go into the state like any other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813
from numpy.typing import NDArray

from slmkit.ops import Floats
from slmkit_coreml.lowering.weights import shared

TIME = 3  # the axis of tokens


def convolved(x: Any, weight: Floats, before: Any, label: str) -> tuple[Any, Any]:
    """Causal, each channel by itself, and the new state. Weight (D, K), state [1, D, 1, K - 1]"""
    tokens, kernel = x.shape[TIME], weight.shape[1]
    line = mb.concat(values=[before, x], axis=TIME)
    total = None
    for at in range(kernel):
        each = mb.mul(x=_tokens(line, at, tokens), y=_column(weight[:, at], f"{label} {at}"))
        total = each if total is None else mb.add(x=total, y=each)
    return total, _tokens(line, tokens, kernel - 1)


def scanned_by_number(
    x: Any, step: Any, b: Any, c: Any, decay: Floats, state: Any, label: str
) -> tuple[Any, Any]:
    """Each number of the state fades by itself. [1, H, 1, T] twice, [1, N, 1, T] twice, (H, N),
    [1, H, N, 1]"""
    heads, size = decay.shape
    rate = shared(mb.const(val=decay.astype(np.float16).reshape(1, heads, size, 1)), label)
    b_row, c_row = (mb.reshape(x=each, shape=[1, 1, size, x.shape[TIME]]) for each in (b, c))
    fading = mb.exp(x=mb.mul(x=step, y=rate))
    gain = mb.mul(x=mb.mul(x=step, y=x), y=b_row)
    gain, fading = _joined(gain, fading)
    states = mb.add(x=gain, y=mb.mul(x=fading, y=state))
    ones = shared(mb.const(val=np.ones((1, 1, 1, size), np.float16)), f"{size} ones")
    found = mb.matmul(x=ones, y=mb.mul(x=states, y=c_row))  # the sum over N
    return found, _tokens(states, x.shape[TIME] - 1, 1)


def scanned_by_head(
    x: Any, step: Any, b: Any, c: Any, decay: Floats, state: Any, label: str
) -> tuple[Any, Any]:
    """A head's state fades as a whole. [1, H * P, 1, T], [1, H, 1, T], [1, N, 1, T] twice, (H,),
    [1, H, N, P]

    What token s gave to the state is there at t as a product: a triangle, as in attention.
    """
    heads, size, width = state.shape[1:]
    tokens = x.shape[TIME]
    b_row, c_row = (mb.reshape(x=each, shape=[1, 1, size, tokens]) for each in (b, c))
    fading = mb.exp(x=mb.mul(x=step, y=_column(decay, label)))
    diagonal = np.eye(tokens, dtype=np.float16).reshape(1, 1, tokens, tokens)
    given = shared(mb.const(val=diagonal), f"diagonal of {tokens}")
    left, faded = _joined(given, fading)  # [1, H, s, t], [1, H, 1, t]
    met = mb.matmul(x=b_row, y=c_row, transpose_x=True)
    steps = mb.reshape(x=step, shape=[1, heads, tokens, 1])
    apart = mb.reshape(x=x, shape=[1, heads, width, tokens])
    seen = mb.matmul(x=apart, y=mb.mul(x=mb.mul(x=left, y=met), y=steps))
    before = mb.matmul(x=mb.transpose(x=state, perm=[0, 1, 3, 2]), y=c_row)
    whole = mb.add(x=seen, y=mb.mul(x=before, y=faded))
    last = mb.mul(x=_tokens(left, tokens - 1, 1), y=steps)
    gains = mb.mul(x=apart, y=mb.reshape(x=last, shape=[1, heads, 1, tokens]))
    gained = mb.matmul(x=b_row, y=gains, transpose_y=True)
    kept = mb.add(x=mb.mul(x=state, y=_tokens(faded, tokens - 1, 1)), y=gained)
    return mb.reshape(x=whole, shape=[1, heads * width, 1, tokens]), kept


def skipped(x: Any, scanned: Any, skip: Floats, label: str) -> Any:
    """What a scan gives, plus D * x."""
    return mb.add(x=scanned, y=mb.mul(x=x, y=_column(skip, label)))


def _joined(gain: Any, fading: Any) -> tuple[Any, Any]:
    """s[t] = fading[t] * s[t - 1] + gain[t] for all t, and the products of all fadings up to t."""
    tokens, distance = fading.shape[TIME], 1
    while distance < tokens:
        earlier = _later(gain, distance, 0)
        gain = mb.add(x=gain, y=mb.mul(x=fading, y=earlier))
        fading = mb.mul(x=fading, y=_later(fading, distance, 1))
        distance *= 2
    return gain, fading


def _later(x: Any, distance: int, filler: int) -> Any:
    """x, moved so many tokens on."""
    shape = [*x.shape[:TIME], distance]
    front: NDArray[np.float16] = np.full(shape, filler, np.float16)
    known = shared(mb.const(val=front), f"{filler} times {'x'.join(map(str, shape))}")
    return mb.concat(values=[known, _tokens(x, 0, x.shape[TIME] - distance)], axis=TIME)


def _tokens(x: Any, first: int, count: int) -> Any:
    return mb.slice_by_size(x=x, begin=[0, 0, 0, first], size=[*x.shape[:TIME], count])


def _column(values: Floats, label: str) -> Any:
    column = values.astype(np.float16).reshape(1, -1, 1, 1)
    return shared(mb.const(val=column), label)
