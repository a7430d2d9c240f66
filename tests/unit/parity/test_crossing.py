"""The text as long as the context: what it crosses, what of it is compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.checkpoint.folder import open_checkpoint
from slmkit.interpreters.reference import logits
from slmkit.models.rope import LongRope
from slmkit.ops import Rope
from slmkit.parity.crossing import (
    EDGES,
    LEAST,
    WORK,
    Crossing,
    boundaries_of,
    crossing_from_json,
    crossing_of,
    follow_crossing,
    reference_crossing,
)

TEXTS = [np.arange(1, 30), np.arange(3, 60)]


@pytest.fixture
def checkpoint(tiny):
    return open_checkpoint(tiny("gemma3", sliding_window=50))


def test_it_is_as_long_as_the_context_and_compares_the_sides_of_every_boundary(checkpoint):
    crossing, missed = crossing_of(TEXTS, checkpoint.spec, 200, 32, 1000)
    assert missed == ""
    assert len(crossing.ids) == 200
    beside = {49, 50, 51, 31, 32, 33, 191, 192, 193, 199}  # window, chunks, the last slot
    assert beside <= set(crossing.kept)
    assert list(crossing.kept) == sorted(set(crossing.kept))
    vocabulary = checkpoint.spec.vocabulary
    assert crossing.ids[EDGES : EDGES + 2].tolist() == [vocabulary - 1, 0]
    assert {EDGES, EDGES + 1} <= set(crossing.kept)


def test_the_original_context_of_a_rope_is_a_boundary(checkpoint):
    long_rope = LongRope(Rope((1.0,)), 40)
    spec = replace(checkpoint.spec, long_rope=long_rope)
    assert boundaries_of(spec, 200, 32)["the original context of the rope"] == 40
    assert "the original context of the rope" not in boundaries_of(spec, 40, 32)


def test_a_large_model_reads_less_and_says_what_it_does_not_reach(checkpoint):
    parameters = int(WORK / 100)
    crossing, missed = crossing_of(TEXTS, checkpoint.spec, 2048, 64, parameters)
    assert len(crossing.ids) == 100
    assert missed == (
        "positions from 100 on were not run: the end of the last chunk at 1984, "
        "the end of the context at 2048"
    )
    shortest, _ = crossing_of(TEXTS, checkpoint.spec, 2048, 64, 10**14)
    assert len(shortest.ids) == LEAST


@given(length=st.integers(1, 80), chunk=st.integers(1, 90))
def test_the_pieces_are_the_text_in_chunks_and_single_tokens(length, chunk):
    crossing = Crossing(np.arange(length), tuple(range(length)), chunk)
    assert np.concatenate(crossing.pieces).tolist() == list(range(length))
    assert max(map(len, crossing.pieces)) <= chunk
    back = crossing_from_json(crossing.to_json())
    assert (back.kept, back.chunk, back.ids.tolist()) == (
        crossing.kept,
        chunk,
        crossing.ids.tolist(),
    )


class Echo:
    """A runner whose logits name the token that it was fed."""

    def reset(self):
        self.fed = []

    def feed(self, ids):
        self.fed.append(len(ids))
        return np.stack([ids, ids + 0.5], axis=1).astype(np.float32)


def test_a_runner_gives_the_logits_of_the_kept_positions():
    crossing = Crossing(np.arange(100, 130), (0, 9, 10, 11, 29), 10)
    runner = Echo()
    found = follow_crossing(runner, crossing, lambda done: None)
    assert found[:, 0].tolist() == [100, 109, 110, 111, 129]
    assert runner.fed == [10, 10, 6, 1, 1, 1, 1]


@pytest.mark.parametrize("row", ["gemma2", "llama", "mamba"])
def test_the_reference_gives_the_same_logits_as_over_the_whole_text(tiny, row):
    checkpoint = open_checkpoint(tiny(row))
    crossing, _ = crossing_of(TEXTS, checkpoint.spec, 60, 16, 1000)
    whole = logits(checkpoint.shards, checkpoint.spec, [crossing.ids])[0]
    found = reference_crossing(checkpoint.shards, checkpoint.spec, crossing)
    np.testing.assert_allclose(found, whole[list(crossing.kept)], rtol=1e-5, atol=1e-5)
