"""The functions that change logits or pick tokens, called as MLC's engine does, beside NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit_mlc.lowering.definition import Definition
from slmkit_mlc.lowering.logits import LOWEST
from slmkit_mlc.verify.machine import Machine

Array = NDArray[Any]
Compared = Iterator[tuple[str, Array, Array]]  # function, expected, got
SEED, ROWS, TOKENS, TOP_P = 3, 2, 5, 0.8


def compared_logits(machine: Machine, definition: Definition, metal: bool) -> Compared:
    """Each function on random logits of two sequences."""
    random, vocabulary = np.random.default_rng(SEED), definition.spec.vocabulary
    logits = random.standard_normal((ROWS, vocabulary)).astype(np.float32) * 3
    rows = np.array([0, 0, 1, 1, 1], np.int32)
    tokens = random.permutation(vocabulary)[:TOKENS].astype(np.int32)
    yield _biased(machine, logits, rows, tokens, random)
    yield _punished(machine, logits, rows, tokens, random)
    yield _masked(machine, logits, random)
    if metal:
        yield from _picked(machine, logits, random)


def _biased(machine: Machine, logits: Array, rows: Array, tokens: Array, random: Any) -> Any:
    bias = random.standard_normal(TOKENS).astype(np.float32)
    expected = logits.copy()
    expected[rows, tokens] += bias
    return _in_place(machine, "apply_logit_bias_inplace", expected, logits, rows, tokens, bias)


def _punished(machine: Machine, logits: Array, rows: Array, tokens: Array, random: Any) -> Any:
    """``sequences``: row of the logits of each sequence; here the other way round."""
    sequences, counts = np.array([1, 0], np.int32), random.integers(1, 4, TOKENS).astype(np.int32)
    penalties = np.array([[0.5, 0.25, 1.2], [0.1, 0.3, 1.5]], np.float32)
    expected = logits.copy()
    for row, token, count in zip(rows, tokens, counts, strict=True):
        presence, frequency, repetition = penalties[row]
        left = expected[sequences[row], token] - presence - count * frequency
        expected[sequences[row], token] = left * repetition if left < 0 else left / repetition
    return _in_place(
        machine,
        "apply_penalty_inplace",
        expected,
        logits,
        sequences,
        rows,
        tokens,
        counts,
        penalties,
    )


def _masked(machine: Machine, logits: Array, random: Any) -> Any:
    words = -(-logits.shape[1] // 32)
    mask = random.integers(0, 2**32, (ROWS, words), dtype=np.uint32)
    bits = (mask[:, :, None] >> np.arange(32, dtype=np.uint32)) & 1
    allowed = bits.reshape(ROWS, -1)[:, : logits.shape[1]].astype(bool)
    expected = np.where(allowed, logits, np.float32(LOWEST))
    sequences = np.arange(ROWS, dtype=np.int32)
    return _in_place(
        machine, "apply_bitmask_inplace", expected, logits, sequences, mask.view(np.int32)
    )


def _in_place(machine: Machine, name: str, expected: Array, logits: Array, *given: Array) -> Any:
    changed = machine.tensor(logits)
    machine.kernel(name)(changed, *(machine.tensor(each) for each in given))
    return name, expected, changed.numpy()


def _picked(machine: Machine, logits: Array, random: Any) -> Compared:
    """Sorting, picking by a uniform number, picking among the likeliest, their probabilities."""
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs = (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)
    uniform = random.random(3).astype(np.float32) * np.float32(0.98) + np.float32(0.01)
    rows = np.array([0, 1, 1], np.int32)
    order = np.argsort(-probs, axis=1, kind="stable").astype(np.int32)
    ranked = np.take_along_axis(probs, order, axis=1)
    values, ids = machine.machine["argsort_probs"](machine.tensor(probs))
    yield "argsort_probs", ranked, values.numpy()
    yield "argsort_probs", order.astype(np.float32), ids.numpy().astype(np.float32)
    inputs = [machine.tensor(each) for each in (uniform, rows)]
    picked = machine.machine["multinomial_from_uniform"](machine.tensor(probs), *inputs).numpy()
    expected = _by_uniform(probs[rows], uniform)
    yield "multinomial_from_uniform", expected, picked.astype(np.float32)
    limits = np.full(ROWS, TOP_P, np.float32)
    best = machine.machine["sample_with_top_p"](values, ids, *inputs, machine.tensor(limits))
    kept = np.cumsum(ranked, axis=1) - ranked < TOP_P  # the one that passes the limit, too
    likely = np.where(kept, ranked, 0)
    likely /= likely.sum(axis=1, keepdims=True)
    at = _by_uniform(likely[rows], uniform).astype(np.int64)
    yield "sample_with_top_p", order[rows, at].astype(np.float32), best.numpy().astype(np.float32)
    ranks = np.array([0, 1, logits.shape[1]], np.int32)  # of row 0 the best two, of row 1 the best
    taken = machine.machine["sampler_take_probs"](
        machine.tensor(probs), ids, inputs[1], machine.tensor(picked), machine.tensor(ranks)
    )
    yield "sampler_take_probs", probs[rows, picked], taken[0].numpy()
    yield "sampler_take_probs", ranked.reshape(-1)[ranks], taken[1].numpy()


def _by_uniform(probs: Array, uniform: Array) -> Array:
    """The first token whose cumulative probability passes the number."""
    passed = np.cumsum(probs, axis=1) > uniform[:, None]
    first: Array = passed.argmax(axis=1).astype(np.float32)
    return first
