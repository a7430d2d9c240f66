"""Recurrent layers without a loop: all tokens of a chunk at once.

Shapes: T tokens, D channels, K convolution taps, H heads of P channels, N numbers of scan state.
Chunks must be full, because a padding token would change the state.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.polynomial import Chebyshev, Polynomial

# artanh(w) / w = SERIES(w^2) with an error of 1e-7 for w up to 1/3; log(1 + z) is
# 2 artanh(z / (2 + z)).
SERIES = Chebyshev.interpolate(
    lambda square: np.arctanh(np.sqrt(square)) / np.sqrt(square), 3, domain=[0, 1 / 9]
).convert(kind=Polynomial)


def softplus(x: Any) -> Any:
    """max(x, 0) + log(1 + z) with z = exp(-|x|), by SERIES.

    Computing 1 + z would round off the last digits of a small z.
    """
    z = tf.exp(-tf.abs(x))
    w = z / (np.float32(2) + z)
    *rest, total = (2 * SERIES.coef).astype(np.float32)
    for factor in reversed(rest):
        total = total * (w * w) + factor
    return tf.maximum(x, np.float32(0)) + w * total


def causal_convolution(x: Any, weight: Any, state: Any) -> tuple[Any, Any]:
    """Causal convolution of each channel by itself: the output and the next state.

    x [T, D], weight [D, K], state [K - 1, D], x of the tokens before -> [T, D], [K - 1, D]
    """
    tokens, kernel = x.shape[0], weight.shape[1]
    extended = tf.concat([state, x], 0)
    width = weight.shape[0]
    total = tf.slice(extended, [0, 0], [tokens, width]) * weight[:, 0]
    for tap in range(1, kernel):
        total += tf.slice(extended, [tap, 0], [tokens, width]) * weight[:, tap]
    return total, tf.slice(extended, [tokens, 0], [kernel - 1, width])


def scan_by_number(x: Any, step: Any, b: Any, c: Any, decay: Any, state: Any) -> tuple[Any, Any]:
    """A scan in which each number of the state has its own decay: the output and the next state.

    x and step [T, H], b and c [T, N], decay and state [H, N] -> [T, H], [H, N].

    The recurrence s[t] = factor[t] * s[t - 1] + gain[t] is combined with the results 1, 2, 4, ...
    tokens before (Hillis and Steele 1986). Every factor is at most 1, so nothing overflows.
    """
    factor = tf.exp(step[:, :, None] * decay[None])
    gain = (step * x)[:, :, None] * b[:, None, :]
    tokens, distance = x.shape[0], 1
    while distance < tokens:
        front, first = [[distance, 0], [0, 0], [0, 0]], np.arange(tokens) < distance
        gain = gain + factor * tf.pad(gain[:-distance], front)
        ones = first.astype(np.float32)[:, None, None]  # for tokens without one so far before them
        factor = factor * (tf.pad(factor[:-distance], front) + ones)
        distance *= 2
    states = gain + factor * state[None]
    return tf.reduce_sum(states * c[:, None, :], -1), states[-1]


def scan_by_head(x: Any, step: Any, b: Any, c: Any, decay: Any, state: Any) -> tuple[Any, Any]:
    """A scan in which all numbers of a head decay alike: the output and the next state.

    x [T, H, P], step [T, H], b and c [T, N], decay [H], state [H, N, P] -> [T, H, P], [H, N, P].

    The contribution of token s to the state at token t is scaled by exp(sum of step * decay from
    s + 1 to t), so the output is a product with a triangular matrix, as in attention (Dao and Gu
    2024, section 6).
    """
    (tokens, heads, width), size = x.shape, b.shape[1]
    triangle = np.tril(np.ones((tokens, tokens), np.float32))
    exponents = tf.matmul(triangle[None], (step * decay[None])[None])[0]  # [T, H], sums up to t
    by_head, steps = tf.transpose(exponents), tf.transpose(step)
    difference = tf.minimum(by_head[:, :, None] - by_head[:, None, :], np.float32(0))
    remaining = tf.exp(difference) * triangle[None]  # [H, T, T], factors from token s to token t
    products = tf.matmul(c[None], b[None], transpose_b=True)
    within = tf.matmul(remaining * products * steps[:, None, :], tf.transpose(x, [1, 0, 2]))
    flat_state = tf.reshape(tf.transpose(state, [1, 0, 2]), [1, size, heads * width])
    from_state = tf.reshape(tf.matmul(c[None], flat_state), [tokens, heads, width])
    output = tf.transpose(within, [1, 0, 2]) + tf.exp(exponents)[:, :, None] * from_state
    weights = tf.transpose(remaining[:, -1]) * step  # [T, H]
    weighted = tf.reshape(weights[:, :, None] * x, [1, tokens, heads * width])
    gain = tf.matmul(tf.transpose(b)[None], weighted)
    gain = tf.transpose(tf.reshape(gain, [size, heads, width]), [1, 0, 2])
    return output, tf.exp(exponents[-1])[:, None, None] * state + gain
