"""The reference agrees with itself, and with a slow direct formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.checkpoint.folder import open_checkpoint
from slmkit.inference.load import ReferenceRunner
from slmkit.interpreters import kernels
from slmkit.interpreters.kernels import attention
from slmkit.interpreters.reference import Cache, logits
from slmkit.ops import Attention, visible
from tiny_models import TINY

CLOSE = 2e-5  # float32 sums in another order, on logits of about 1


@pytest.mark.parametrize("architecture", TINY)
def test_chunks_and_decode_give_the_logits_of_one_pass(tiny, architecture):
    checkpoint = open_checkpoint(tiny(architecture))
    ids = np.random.default_rng(1).integers(0, 320, 40)
    whole = logits(checkpoint.shards, checkpoint.spec, [ids])[0]
    cache, parts = Cache(), []
    for chunk in np.split(ids, [7, 20, *range(21, 40)]):
        parts += logits(checkpoint.shards, checkpoint.spec, [chunk], [cache])
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=CLOSE * np.abs(whole).max())


def test_sequences_do_not_see_each_other(tiny):
    checkpoint = open_checkpoint(tiny("qwen3"))
    random = np.random.default_rng(2)
    sequences = [random.integers(0, 320, length) for length in (5, 1, 12)]
    together = logits(checkpoint.shards, checkpoint.spec, sequences)
    for ids, answer in zip(sequences, together, strict=True):
        alone = logits(checkpoint.shards, checkpoint.spec, [ids])[0]
        np.testing.assert_allclose(answer, alone, atol=CLOSE * np.abs(alone).max())


@pytest.mark.parametrize("window", [None, 1, 3, 100])
def test_attention_is_the_textbook_sum(window):
    random = np.random.default_rng(3)
    q = random.standard_normal((4, 6, 8), dtype=np.float32)  # the last 4 of 9 tokens
    keys, values = random.standard_normal((2, 9, 2, 8), dtype=np.float32)
    kind = Attention(scale=0.3, window=window)
    got = attention(q, keys, values, kind).reshape(4, 6, 8)
    for token in range(4):
        for head in range(6):
            position, group = 5 + token, head // 3
            first = 0 if window is None else max(0, position - window + 1)
            scores = keys[first : position + 1, group] @ q[token, head] * 0.3
            weights = np.exp(scores) / np.exp(scores).sum()
            expected = weights @ values[first : position + 1, group]
            np.testing.assert_allclose(got[token, head], expected, atol=1e-5)


def test_a_window_hides_what_is_behind_it():
    seen = visible(np.array([3, 4]), np.arange(5), window=2)
    assert seen.tolist() == [[False, False, True, True, False], [False, False, False, True, True]]


def test_no_query_attends_to_an_empty_slot():
    assert visible(np.array([1, -1]), np.array([0, -1]), window=None).tolist() == [
        [True, False],
        [False, False],
    ]


def test_reset_forgets_the_sequence(tiny):
    checkpoint = open_checkpoint(tiny())
    runner = ReferenceRunner(checkpoint.shards, checkpoint.spec)
    first = runner.feed(np.array([5, 6]))
    runner.reset()
    np.testing.assert_array_equal(runner.feed(np.array([5, 6])), first)


@pytest.mark.parametrize("name", ["sigmoid", "silu", "gelu_tanh"])
@given(st.integers(0, 9), st.integers(0, 7), st.integers(1, 40))
def test_functions_of_numbers_are_the_same_in_blocks(name, tokens, width, cached):
    function = getattr(kernels, name)
    x = np.random.default_rng(tokens).normal(0, 30, (tokens, width)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "CACHED", cached)
        np.testing.assert_allclose(kernels.by_blocks(function, x), function(x), rtol=1e-6)
