"""Check the functions that change logits or sample tokens against NumPy.

They are called as MLC's engine calls them, on random logits of ROWS sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit_mlc.lowering.definition import Definition
from slmkit_mlc.lowering.logits import MASKED_LOGIT
from slmkit_mlc.verify.machine import Machine

Array = NDArray[Any]
Result = tuple[str, Array, Array]  # name of the function, expected, got
SEED, ROWS, TOKENS, TOP_P = 3, 2, 5, 0.8


def compare_logit_functions(
    machine: Machine, definition: Definition, metal: bool
) -> Iterator[Result]:
    """Call each function; yield its name and its expected and computed outputs.

    ``metal``: whether the library has sampling functions.
    """
    random, vocabulary = np.random.default_rng(SEED), definition.spec.vocabulary
    logits = random.standard_normal((ROWS, vocabulary)).astype(np.float32) * 3
    rows = np.array([0, 0, 1, 1, 1], np.int32)
    tokens = random.permutation(vocabulary)[:TOKENS].astype(np.int32)
    yield _check_bias(machine, logits, rows, tokens, random)
    yield _check_penalty(machine, logits, rows, tokens, random)
    yield _check_bitmask(machine, logits, random)
    if metal:
        yield from _check_sampling(machine, logits, random)


def _check_bias(machine: Machine, logits: Array, rows: Array, tokens: Array, random: Any) -> Result:
    """Add a bias to some tokens of each row."""
    bias = random.standard_normal(TOKENS).astype(np.float32)
    expected = logits.copy()
    expected[rows, tokens] += bias
    got = _call_in_place(machine, "apply_logit_bias_inplace", logits, rows, tokens, bias)
    return "apply_logit_bias_inplace", expected, got


def _check_penalty(
    machine: Machine, logits: Array, rows: Array, tokens: Array, random: Any
) -> Result:
    """``sequences``: the row of the logits of each sequence, here in reverse order."""
    sequences, counts = np.array([1, 0], np.int32), random.integers(1, 4, TOKENS).astype(np.int32)
    penalties = np.array([[0.5, 0.25, 1.2], [0.1, 0.3, 1.5]], np.float32)
    expected = logits.copy()
    for row, token, count in zip(rows, tokens, counts, strict=True):
        presence, frequency, repetition = penalties[row]
        logit = expected[sequences[row], token] - presence - count * frequency
        expected[sequences[row], token] = logit * repetition if logit < 0 else logit / repetition
    inputs = (sequences, rows, tokens, counts, penalties)
    got = _call_in_place(machine, "apply_penalty_inplace", logits, *inputs)
    return "apply_penalty_inplace", expected, got


def _check_bitmask(machine: Machine, logits: Array, random: Any) -> Result:
    """Mask about half of the tokens of each row."""
    words = -(-logits.shape[1] // 32)
    mask = random.integers(0, 2**32, (ROWS, words), dtype=np.uint32)
    bits = (mask[:, :, None] >> np.arange(32, dtype=np.uint32)) & 1
    allowed = bits.reshape(ROWS, -1)[:, : logits.shape[1]].astype(bool)
    expected = np.where(allowed, logits, np.float32(MASKED_LOGIT))
    sequences = np.arange(ROWS, dtype=np.int32)
    inputs = (sequences, mask.view(np.int32))
    got = _call_in_place(machine, "apply_bitmask_inplace", logits, *inputs)
    return "apply_bitmask_inplace", expected, got


def _call_in_place(machine: Machine, name: str, logits: Array, *inputs: Array) -> Array:
    """The logits after a kernel that changes them."""
    changed = machine.tensor(logits)
    machine.kernel(name)(changed, *(machine.tensor(array) for array in inputs))
    result: Array = changed.numpy()
    return result


def _check_sampling(machine: Machine, logits: Array, random: Any) -> Iterator[Result]:
    """Sorting, sampling by a uniform number, sampling within top-p, probabilities of tokens."""
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs = (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)
    uniform = random.random(3).astype(np.float32) * np.float32(0.98) + np.float32(0.01)
    rows = np.array([0, 1, 1], np.int32)
    order = np.argsort(-probs, axis=1, kind="stable").astype(np.int32)
    sorted_probs = np.take_along_axis(probs, order, axis=1)
    values, ids = machine.vm["argsort_probs"](machine.tensor(probs))
    yield "argsort_probs", sorted_probs, values.numpy()
    yield "argsort_probs", order.astype(np.float32), ids.numpy().astype(np.float32)

    inputs = [machine.tensor(array) for array in (uniform, rows)]
    sampled = machine.vm["multinomial_from_uniform"](machine.tensor(probs), *inputs).numpy()
    expected = _sample(probs[rows], uniform)
    yield "multinomial_from_uniform", expected, sampled.astype(np.float32)

    limits = np.full(ROWS, TOP_P, np.float32)
    within = machine.vm["sample_with_top_p"](values, ids, *inputs, machine.tensor(limits))
    # The token that reaches the limit is included.
    included = np.cumsum(sorted_probs, axis=1) - sorted_probs < TOP_P
    top_probs = np.where(included, sorted_probs, 0)
    top_probs /= top_probs.sum(axis=1, keepdims=True)
    ranks = _sample(top_probs[rows], uniform).astype(np.int64)
    expected = order[rows, ranks].astype(np.float32)
    yield "sample_with_top_p", expected, within.numpy().astype(np.float32)

    offsets = np.array([0, 1, logits.shape[1]], np.int32)  # the best two of row 0, best of row 1
    sampled_probs, top, _ = machine.vm["sampler_take_probs"](
        machine.tensor(probs), ids, inputs[1], machine.tensor(sampled), machine.tensor(offsets)
    )
    yield "sampler_take_probs", probs[rows, sampled], sampled_probs.numpy()
    yield "sampler_take_probs", sorted_probs.reshape(-1)[offsets], top.numpy()


def _sample(probs: Array, uniform: Array) -> Array:
    """Index of the first token whose cumulative probability exceeds the number, as float32."""
    exceeds = np.cumsum(probs, axis=1) > uniform[:, None]
    first: Array = exceeds.argmax(axis=1).astype(np.float32)
    return first
