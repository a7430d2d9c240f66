"""Generation: sampling, stopping, streaming."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import SlmkitError, UsageError
from slmkit.inference.generate import Sampler, generate, stream_text
from tiny_tokenizers import KINDS


class Parrot:
    """A runner whose next token is always the last one plus one."""

    runtime = "a test"
    taps: Mapping[str, np.ndarray] = {}

    def __init__(self, context_length: int = 50) -> None:
        self.context_length = context_length
        self.seen: list[list[int]] = []

    def reset(self) -> None:
        self.seen = []

    def feed(self, ids):
        self.seen.append(list(ids))
        return np.eye(100, dtype=np.float32)[np.asarray(ids) + 1]


def tokens(prompt, stop=(), limit=5, chunk=4, runner=None):
    return list(generate(runner or Parrot(), prompt, stop, limit, Sampler(), chunk))


def test_tokens_follow_the_prompt():
    assert tokens([7]) == [8, 9, 10, 11, 12]


def test_a_stop_token_ends_and_is_not_given_out():
    assert tokens([7], stop=(10, 90)) == [8, 9]


def test_the_prompt_is_fed_in_chunks():
    runner = Parrot()
    tokens(list(range(10)), limit=1, runner=runner)
    assert runner.seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_generation_ends_with_the_context():
    runner = Parrot(context_length=10)
    assert len(tokens(list(range(6)), limit=99, runner=runner)) == 4
    assert sum(map(len, runner.seen)) <= 10


@pytest.mark.parametrize("prompt", [[], list(range(50))])
def test_an_empty_or_too_long_prompt_is_refused(prompt):
    with pytest.raises(SlmkitError):
        tokens(prompt)


def test_sampling_is_seeded_and_follows_the_chances():
    logits = np.log(np.array([0.7, 0.2, 0.1], np.float32))
    picks = [Sampler(1.0, seed=4).pick(logits) for _ in range(3)]
    assert len(set(picks)) == 1
    sampler = Sampler(1.0, seed=1)
    counts = np.bincount([sampler.pick(logits) for _ in range(3000)], minlength=3) / 3000
    np.testing.assert_allclose(counts, [0.7, 0.2, 0.1], atol=0.04)


def test_top_p_keeps_only_the_likely_tokens():
    logits = np.log(np.array([0.1, 0.6, 0.3], np.float32))
    sampler = Sampler(1.0, top_p=0.85, seed=1)
    assert {sampler.pick(logits) for _ in range(200)} == {1, 2}
    narrow = Sampler(1.0, top_p=0.0, seed=1)
    assert {narrow.pick(logits) for _ in range(50)} == {1}


def test_top_k_keeps_only_the_best_tokens():
    logits = np.log(np.array([0.1, 0.5, 0.4], np.float32))
    sampler = Sampler(1.0, top_k=2, seed=1)
    assert {sampler.pick(logits) for _ in range(200)} == {1, 2}


def test_a_repetition_penalty_counts_the_prompt_too():
    sampler = Sampler(repetition_penalty=2.0)
    assert sampler.pick(np.array([3.0, 2.0, 1.0], np.float32), [0, 0]) == 1
    assert sampler.pick(np.array([-1.0, -1.5, -3.0], np.float32), [0]) == 1
    assert list(generate(Parrot(), [7], (), 1, Sampler(repetition_penalty=2.0), 4)) == [8]


def test_ids_without_a_token_are_never_picked():
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    assert Sampler(never=(1,)).pick(logits) == 2
    assert Sampler(5.0, never=(1, 2)).pick(logits) == 0
    assert logits.tolist() == [1, 3, 2]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    KINDS[request.param](folder)
    return Tokenizer(folder)


@given(text=st.text(max_size=40))
def test_streamed_pieces_join_to_the_whole_text(tokenizer, text):
    ids = tokenizer.encode(text, special=False)
    pieces = list(stream_text(tokenizer, iter(ids)))
    assert "".join(pieces) == tokenizer.decode(ids)


@given(data=st.data())
def test_streamed_pieces_of_any_tokens_join_to_the_whole_text(tokenizer, data):
    number = st.integers(0, tokenizer.size - 1)
    raw = st.sampled_from(sorted(tokenizer.library.byte_ids) or [0])  # bytes alone are seldom text
    ids = data.draw(st.lists(number | raw, max_size=20))
    assert "".join(stream_text(tokenizer, iter(ids))) == tokenizer.decode(ids)


def test_half_an_emoji_does_not_stop_the_stream(tokenizer):
    start = tokenizer.encode("\n🚀", special=False)
    words = tokenizer.encode("turn on the lights in the kitchen", special=False)
    ids = [*start[:-2], *words]  # without the emoji's last bytes
    pieces = [piece for piece in stream_text(tokenizer, iter(ids)) if piece]
    assert "".join(pieces) == tokenizer.decode(ids)
    assert len(pieces) > 3 and len(pieces[-1]) < 20


@pytest.mark.parametrize(
    "numbers",
    [
        {"temperature": -1.0},
        {"temperature": np.nan},
        {"top_p": np.nan},
        {"top_p": 2.0},
        {"seed": -1},
    ],
)
def test_numbers_that_say_nothing_are_refused(numbers):
    with pytest.raises(UsageError):
        Sampler(**numbers)
