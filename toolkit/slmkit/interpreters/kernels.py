"""NumPy functions of the reference: attention, convolution, selective scan, int8 rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from slmkit.ops import Attention, Floats, visible

CACHED = 1 << 18  # numbers of a block that a core's cache holds, with what is made of them


def round_to_int8(x: Floats, outliers: Sequence[int] = (), parts: int = 1) -> Floats:
    """Quantize each row to int8 and dequantize it. Same shape.

    Columns ``outliers`` are rounded by themselves: the others then have the row's range alone. So
    is each of ``parts`` of equal size.
    The range of a row is from its minimum to its maximum, extended to hold 0. Of the zero points
    by either end of the range, the one with less rounding error at the two ends is used; source:
    XNNPACK's xnn_compute_qd8 parameters (``src/xnnpack/quantization.h``).
    """
    if outliers:
        columns, rest = list(outliers), x.copy()
        rest[:, columns] = 0
        rounded = round_to_int8(rest)
        rounded[:, columns] = round_to_int8(x[:, columns])
        return rounded
    if parts > 1:
        return np.concatenate([round_to_int8(part) for part in np.split(x, parts, axis=1)], axis=1)
    low = np.minimum(x.min(axis=1, keepdims=True), np.float32(0))
    high = np.maximum(x.max(axis=1, keepdims=True), np.float32(0))
    scale = ((high - low) / np.float32(255)).astype(np.float32)
    scale = np.where(scale == 0, np.float32(1), scale)
    from_low, from_high = -128 - low / scale, 127 - high / scale
    zero = np.where(from_low + from_high > 0, from_low, from_high)
    zero = np.clip(np.rint(zero), -128, 127)
    codes = np.clip(np.rint(x / scale + zero), -128, 127)
    dequantized: Floats = ((codes - zero) * scale).astype(np.float32)
    return dequantized


def attention(q: Floats, keys: Floats, values: Floats, kind: Attention) -> Floats:
    """Causal attention of the last T of S tokens. (T, H, d), (S, G, d), (S, G, d) -> (T, H * d)"""
    tokens, heads, width = q.shape
    total, kv_heads, _ = keys.shape
    grouped = q.reshape(tokens, kv_heads, heads // kv_heads, width).transpose(1, 2, 0, 3)
    scores: Floats = grouped @ keys.transpose(1, 2, 0)[:, None]  # (G, H/G, T, S); then all in place
    scores *= np.float32(kind.scale)
    if kind.cap is not None:
        cap = np.float32(kind.cap)
        scores /= cap
        np.tanh(scores, out=scores)
        scores *= cap
    positions = np.arange(total)
    mask = visible(positions[total - tokens :], positions, kind.window)
    np.copyto(scores, np.float32(-np.inf), where=~mask)
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    mixed = scores @ values.transpose(1, 0, 2)[:, None]  # (G, H/G, T, d)
    joined: Floats = mixed.transpose(2, 0, 1, 3).reshape(tokens, heads * width)
    return joined


def convolution(x: Floats, weight: Floats, states: dict[int, Floats], layer: int) -> Floats:
    """Causal depthwise convolution; replaces ``states[layer]``. (T, D), (D, K) -> (T, D)"""
    kernel = weight.shape[1]
    state = states.get(layer, np.zeros((kernel - 1, x.shape[1]), np.float32))
    inputs = np.concatenate([state, x])
    states[layer] = inputs[len(inputs) - kernel + 1 :]
    total = np.zeros_like(x)
    for tap in range(kernel):
        total += inputs[tap : tap + len(x)] * weight[:, tap]
    return total


def selective_scan(
    x: Floats, step: Floats, b: Floats, c: Floats, decay: Floats, state: Floats | None
) -> tuple[Floats, Floats]:
    """The recurrence of ``Ops.scan``, without its term D * x.

    x (T, H, P), step (T, H), b and c (T, N), decay (H, N or 1, 1), state (H, N, P) or None for
    zeros -> y (T, H, P), and the state after the last token.
    """
    if state is None:
        state = np.zeros((x.shape[1], b.shape[1], x.shape[2]), np.float32)
    y = np.empty_like(x)
    for token in range(len(x)):
        decayed = np.exp(step[token][:, None, None] * decay) * state
        state = decayed + b[token][:, None] * (step[token][:, None] * x[token])[:, None]
        y[token] = np.einsum("n,hnp->hp", c[token], state)
    return y, state


def by_blocks(function: Callable[[Floats], Floats], x: Floats) -> Floats:
    """``function`` of every number by itself, some rows at a time. Same shape.

    Of wide inputs memory takes the time, not arithmetic: blocks stay in a core's cache meanwhile.
    """
    result, rows = np.empty_like(x), max(1, CACHED * len(x) // max(1, x.size))
    for first in range(0, len(x), rows):
        result[first : first + rows] = function(x[first : first + rows])
    return result


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + e^-x). Same shape."""
    result: Floats = np.negative(x)  # then all in place
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the right limit, 0
        np.exp(result, out=result)
    result += np.float32(1)
    return np.divide(np.float32(1), result, out=result)


def silu(x: Floats) -> Floats:
    """x times its sigmoid. Same shape."""
    result = sigmoid(x)
    result *= x
    return result


def gelu_tanh(x: Floats) -> Floats:
    """GELU by its formula with tanh. Same shape."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    result: Floats = np.multiply(np.float32(0.5) * x, np.float32(1) + np.tanh(inner))
    return result
