"""Layers that scan, without a loop: all tokens of a chunk at once.

Chunks are whole: a token that only fills a chunk up would go into the state like any other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.polynomial import Chebyshev, Polynomial

# artanh(w) / w = SERIES(w^2) to 1e-7 for w up to 1/3: log(1 + z) is 2 artanh(z / (2 + z))
SERIES = Chebyshev.interpolate(
    lambda square: np.arctanh(np.sqrt(square)) / np.sqrt(square), 3, domain=[0, 1 / 9]
).convert(kind=Polynomial)


def softplus(x: Any) -> Any:
    """max(x, 0) + log(1 + z), z = e^-|x|: 1 + z itself would round a small step's last digits."""
    z = tf.exp(-tf.abs(x))
    w = z / (np.float32(2) + z)
    *rest, total = (2 * SERIES.coef).astype(np.float32)
    for factor in reversed(rest):
        total = total * (w * w) + factor
    return tf.maximum(x, np.float32(0)) + w * total


def convolved(x: Any, weight: Any, before: Any) -> tuple[Any, Any]:
    """Causal, each channel by itself, and the new state. [T, D], [D, K], [K - 1, D]"""
    tokens, kernel = x.shape[0], weight.shape[1]
    line = tf.concat([before, x], 0)
    width = weight.shape[0]
    total = tf.slice(line, [0, 0], [tokens, width]) * weight[:, 0]
    for at in range(1, kernel):
        total += tf.slice(line, [at, 0], [tokens, width]) * weight[:, at]
    return total, tf.slice(line, [tokens, 0], [kernel - 1, width])


def scanned_by_number(x: Any, step: Any, b: Any, c: Any, decay: Any, state: Any) -> tuple[Any, Any]:
    """Each number of the state fades by itself: [T, H] twice, [T, N] twice, [H, N], [H, N].

    s[t] = fading[t] * s[t - 1] + gain[t] is joined with what lies 1, 2, 4, ... tokens before
    (Hillis and Steele 1986): every factor is at most 1, so that nothing overflows.
    """
    fading = tf.exp(step[:, :, None] * decay[None])
    gain = (step * x)[:, :, None] * b[:, None, :]
    tokens, distance = x.shape[0], 1
    while distance < tokens:
        front, first = [[distance, 0], [0, 0], [0, 0]], np.arange(tokens) < distance
        gain = gain + fading * tf.pad(gain[:-distance], front)
        ones = first.astype(np.float32)[:, None, None]  # where nothing lies before
        fading = fading * (tf.pad(fading[:-distance], front) + ones)
        distance *= 2
    states = gain + fading * state[None]
    return tf.reduce_sum(states * c[:, None, :], -1), states[-1]


def scanned_by_head(x: Any, step: Any, b: Any, c: Any, decay: Any, state: Any) -> tuple[Any, Any]:
    """A head's state fades as a whole: [T, H, P], [T, H], [T, N] twice, [H], [H, N, P].

    What token s gave to the state is still there at t as exp(sum of step * A from s + 1 to t):
    a triangle of products, as in attention (Dao and Gu 2024, section 6).
    """
    (tokens, heads, width), size = x.shape, b.shape[1]
    triangle = np.tril(np.ones((tokens, tokens), np.float32))
    faded = tf.matmul(triangle[None], (step * decay[None])[None])[0]  # [T, H], sums up to t
    turned, steps = tf.transpose(faded), tf.transpose(step)
    difference = tf.minimum(turned[:, :, None] - turned[:, None, :], np.float32(0))
    left = tf.exp(difference) * triangle[None]  # [H, T, T]
    met = tf.matmul(c[None], b[None], transpose_b=True)
    seen = tf.matmul(left * met * steps[:, None, :], tf.transpose(x, [1, 0, 2]))
    flat = tf.reshape(tf.transpose(state, [1, 0, 2]), [1, size, heads * width])
    before = tf.reshape(tf.matmul(c[None], flat), [tokens, heads, width])
    given = tf.transpose(seen, [1, 0, 2]) + tf.exp(faded)[:, :, None] * before
    weights = tf.transpose(left[:, -1]) * step  # [T, H]
    gains = tf.reshape(weights[:, :, None] * x, [1, tokens, heads * width])
    gained = tf.matmul(tf.transpose(b)[None], gains)
    gained = tf.transpose(tf.reshape(gained, [size, heads, width]), [1, 0, 2])
    return given, tf.exp(faded[-1])[:, None, None] * state + gained
