"""The first golden prompt in detail: numbers by position and by layer, against plain arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slmkit.checkpoint.folder import open_checkpoint
from slmkit.interpreters import reference
from slmkit.parity.first_prompt import TOKENS, Stream, layer_errors, reading, stream_kept_in
from slmkit.parity.golden import Golden, outputs_of
from slmkit.snr import EXACT_DB, snr_db

IDS = np.array([3, 1, 4, 1, 5, 9, 2, 6])


def golden_of(logits) -> Golden:
    """Two sequences, of which the first has a prompt of five tokens."""
    other = np.ones((2, logits.shape[1]), np.float32)
    return Golden(("one", "two"), 2, (IDS, IDS[:2]), (5, 2), outputs_of([logits, other]))


@pytest.fixture
def logits():
    return np.random.default_rng(1).normal(size=(len(IDS), 40)).astype(np.float32)


def test_a_reading_is_of_the_first_sequence_alone(logits):
    got = logits + np.float32(0.01) * np.arange(len(IDS), dtype=np.float32)[:, None]
    found = reading("ort", "exact", "reference", golden_of(logits), outputs_of([got, got[:2] * 9]))
    wanted = [snr_db(one, two) for one, two in zip(logits, got, strict=True)]
    assert found.snr_db == pytest.approx(wanted, abs=0.051)
    assert found.snr_db[0] == EXACT_DB and found.snr_db[1] > found.snr_db[-1]
    assert found.best == tuple(got[4:].argmax(axis=1))  # from the prompt's last token on
    assert len(found.best) <= TOKENS


def test_a_reading_says_where_logits_are_not_finite(logits):
    got = logits.copy()
    got[2, 7] = np.inf
    found = reading("ort", "exact", "reference", golden_of(logits), outputs_of([got, got[:2]]))
    assert [math.isnan(each) for each in found.snr_db] == [at == 2 for at in range(len(IDS))]


@pytest.mark.parametrize("model_type", ["llama", "gemma3", "granite-hybrid"])
def test_the_stream_is_the_value_after_each_layer(tiny, model_type):
    checkpoint = open_checkpoint(tiny(model_type))
    shards, spec = checkpoint.shards, checkpoint.spec
    stream: Stream = {}
    ids = IDS % spec.vocabulary
    reference.logits(shards, spec, [ids, ids[:3]], kind=stream_kept_in(stream))
    taps = reference.taps(shards, spec, ids)
    assert sorted(stream) == list(range(spec.layers))
    for layer, value in stream.items():
        (name,) = [each for each in taps if each.endswith(f".layers.{layer}")]
        assert value.shape == (len(ids), spec.width)
        np.testing.assert_allclose(value, taps[name], rtol=2e-4, atol=2e-5)


def test_the_error_of_a_layer_is_the_median_of_positions_without_the_scale(logits):
    noisy = logits * np.float32(1.1)
    noisy[0] = 1000  # the first token alone would hide all others in a ratio of sums
    codes = {0: logits * np.float32(0.25), 1: noisy * np.float32(0.25)}
    first, second = layer_errors("all", {0: logits, 1: logits}, codes, 0.25)
    assert (first.layer, first.snr_db, second.layer) == (0, EXACT_DB, 1)
    assert second.snr_db == pytest.approx(20, abs=0.1)
    (lost,) = layer_errors("all", {0: logits}, {0: np.full_like(logits, np.nan)}, 1.0)
    assert math.isnan(lost.snr_db)
