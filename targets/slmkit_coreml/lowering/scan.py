"""Causal convolutions and selective scans of a whole chunk, channels first: [1, D, 1, T].

Each state is combined with those 1, 2, 4, ... tokens before (Hillis and Steele 1986): every factor
is at most 1, so that float16 neither overflows nor cancels. Chunks are never padded: a padding
token would enter the state like any other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813
from numpy.typing import NDArray

from slmkit.ops import Floats
from slmkit_coreml.lowering.weights import share

TIME = 3  # the axis of tokens


def convolution(x: Any, weight: Floats, state: Any, label: str) -> tuple[Any, Any]:
    """Causal depthwise convolution, and the new state.

    x [1, D, 1, T], weight (D, K), state [1, D, 1, K - 1] -> [1, D, 1, T], [1, D, 1, K - 1]
    """
    tokens, kernel = x.shape[TIME], weight.shape[1]
    line = mb.concat(values=[state, x], axis=TIME)
    total = None
    for at in range(kernel):
        inputs = _slice_tokens(line, at, tokens)
        term = mb.mul(x=inputs, y=_channel_constant(weight[:, at], f"{label} {at}"))
        total = term if total is None else mb.add(x=total, y=term)
    return total, _slice_tokens(line, tokens, kernel - 1)


def scan_by_number(
    x: Any, step: Any, b: Any, c: Any, rate: Floats, state: Any, label: str
) -> tuple[Any, Any]:
    """Scan with a decay per number of the state, and the new state.

    x and step [1, H, 1, T], b and c [1, N, 1, T], rate (H, N), state [1, H, N, 1]
    -> [1, H, 1, T], [1, H, N, 1]
    """
    heads, size = rate.shape
    rates = share(mb.const(val=rate.astype(np.float16).reshape(1, heads, size, 1)), label)
    b_row = mb.reshape(x=b, shape=[1, 1, size, x.shape[TIME]])
    c_row = mb.reshape(x=c, shape=[1, 1, size, x.shape[TIME]])
    decay = mb.exp(x=mb.mul(x=step, y=rates))
    gain = mb.mul(x=mb.mul(x=step, y=x), y=b_row)
    gain, decay = _prefix_scan(gain, decay)
    states = mb.add(x=gain, y=mb.mul(x=decay, y=state))
    ones = share(mb.const(val=np.ones((1, 1, 1, size), np.float16)), f"{size} ones")
    output = mb.matmul(x=ones, y=mb.mul(x=states, y=c_row))  # the sum over N
    return output, _slice_tokens(states, x.shape[TIME] - 1, 1)


def scan_by_head(
    x: Any, step: Any, b: Any, c: Any, rate: Floats, state: Any, label: str
) -> tuple[Any, Any]:
    """Scan with one decay per head, and the new state.

    x [1, H * P, 1, T], step [1, H, 1, T], b and c [1, N, 1, T], rate (H,), state [1, H, N, P]
    -> [1, H * P, 1, T], [1, H, N, P]

    The decay of token s's gain until token t is a product: a triangular matrix, as in attention.
    """
    heads, size, width = state.shape[1:]
    tokens = x.shape[TIME]
    b_row = mb.reshape(x=b, shape=[1, 1, size, tokens])
    c_row = mb.reshape(x=c, shape=[1, 1, size, tokens])
    decay = mb.exp(x=mb.mul(x=step, y=_channel_constant(rate, label)))
    diagonal = np.eye(tokens, dtype=np.float16).reshape(1, 1, tokens, tokens)
    unit_gains = share(mb.const(val=diagonal), f"diagonal of {tokens}")
    gain_decay, past_decay = _prefix_scan(unit_gains, decay)  # [1, H, s, t], [1, H, 1, t]
    scores = mb.matmul(x=b_row, y=c_row, transpose_x=True)
    steps = mb.reshape(x=step, shape=[1, heads, tokens, 1])
    by_head = mb.reshape(x=x, shape=[1, heads, width, tokens])
    weights = mb.mul(x=mb.mul(x=gain_decay, y=scores), y=steps)
    from_chunk = mb.matmul(x=by_head, y=weights)
    from_past = mb.matmul(x=mb.transpose(x=state, perm=[0, 1, 3, 2]), y=c_row)
    output = mb.add(x=from_chunk, y=mb.mul(x=from_past, y=past_decay))
    last = mb.mul(x=_slice_tokens(gain_decay, tokens - 1, 1), y=steps)
    gains = mb.mul(x=by_head, y=mb.reshape(x=last, shape=[1, heads, 1, tokens]))
    gained = mb.matmul(x=b_row, y=gains, transpose_y=True)
    decayed = mb.mul(x=state, y=_slice_tokens(past_decay, tokens - 1, 1))
    new_state = mb.add(x=decayed, y=gained)
    return mb.reshape(x=output, shape=[1, heads * width, 1, tokens]), new_state


def add_skip(x: Any, scan_output: Any, skip: Floats, label: str) -> Any:
    """The output of a scan plus D * x. [1, H * P, 1, T]"""
    return mb.add(x=scan_output, y=mb.mul(x=x, y=_channel_constant(skip, label)))


def _prefix_scan(gain: Any, decay: Any) -> tuple[Any, Any]:
    """s[t] = decay[t] * s[t - 1] + gain[t] for all t, and the product of all decays up to t."""
    tokens, distance = decay.shape[TIME], 1
    while distance < tokens:
        earlier = _shift(gain, distance, 0)
        gain = mb.add(x=gain, y=mb.mul(x=decay, y=earlier))
        decay = mb.mul(x=decay, y=_shift(decay, distance, 1))
        distance *= 2
    return gain, decay


def _shift(x: Any, distance: int, filler: int) -> Any:
    """x, ``distance`` tokens later; the first tokens are ``filler``."""
    shape = [*x.shape[:TIME], distance]
    array: NDArray[np.float16] = np.full(shape, filler, np.float16)
    front = share(mb.const(val=array), f"{filler} times {'x'.join(map(str, shape))}")
    rest = _slice_tokens(x, 0, x.shape[TIME] - distance)
    return mb.concat(values=[front, rest], axis=TIME)


def _slice_tokens(x: Any, first: int, count: int) -> Any:
    return mb.slice_by_size(x=x, begin=[0, 0, 0, first], size=[*x.shape[:TIME], count])


def _channel_constant(values: Floats, label: str) -> Any:
    """A number per channel, [1, D, 1, 1]."""
    column = values.astype(np.float16).reshape(1, -1, 1, 1)
    return share(mb.const(val=column), label)
