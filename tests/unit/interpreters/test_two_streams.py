"""The two streams: both equal the reference, in batches, with values kept in files."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts import texts_of
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.interpreters import two_streams
from slmkit.interpreters.reference import logits
from slmkit.interpreters.two_streams import (
    FLOAT,
    MATRICES,
    QUANTIZED,
    Matrices,
    TwoStreams,
)
from slmkit.interpreters.value_files import ValueFiles
from slmkit.models import registry
from tiers import ROWS, SAYS_MOST, some
from tiny_models import TINY


class Watched(TwoStreams):
    """Evaluates the input of each linear, as calibration does; changes no weight."""

    seen: tuple[str, ...] = ()

    def fit(self, x, projections):
        x.keep()
        self.seen += tuple(each.name for each in projections)
        self.by_workers(x.compute)


@pytest.mark.parametrize("row", some(TINY, SAYS_MOST, "gemma2", "lfm2-biases", why=ROWS))
def test_both_streams_are_the_reference(tiny, tmp_path, monkeypatch, row):
    monkeypatch.setattr(two_streams, "BATCH", 100)
    checkpoint, other = open_checkpoint(tiny(row)), open_checkpoint(tiny(row))
    texts = texts_of(checkpoint, 3)
    streams = Watched((checkpoint.shards, other.shards), texts, tmp_path)
    result = registry.run(streams, checkpoint.spec)
    assert len(streams.batches) == 3
    assert checkpoint.model.multiplied <= set(streams.seen)
    for at, expected in enumerate(logits(checkpoint.shards, checkpoint.spec, texts)):
        for stream, found in zip((FLOAT, QUANTIZED), result.both(at), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(result.at(at, stream), found)
        streams.memo[at].clear()


class Counted(ValueFiles):
    written = 0

    def write(self, numbers):
        self.written += 1
        return super().write(numbers)


def test_files_of_layers_that_are_behind_are_written_again(tiny, tmp_path):
    checkpoint = open_checkpoint(tiny("llama"))
    streams = Watched((checkpoint.shards,) * 2, texts_of(checkpoint, 2), tmp_path)
    streams.files = counted = Counted(tmp_path)
    registry.run(streams, checkpoint.spec)
    assert 0 < len(list(tmp_path.iterdir())) < counted.written


def test_texts_are_put_together_up_to_the_size_of_a_batch(monkeypatch):
    monkeypatch.setattr(two_streams, "BATCH", 10)
    texts = [np.arange(n) for n in (4, 6, 1, 12, 3)]
    batches = two_streams.batches_of(texts)
    assert [[len(ids) for ids in batch] for batch in batches] == [[4, 6], [1], [12], [3]]


def test_matrices_stay_in_memory_until_others_are_read(tiny):
    checkpoint = open_checkpoint(tiny("llama"))
    read = Matrices(checkpoint.shards)
    names = [f"{name}.weight" for name in sorted(checkpoint.model.matrices)][: MATRICES + 1]
    (first,) = (block for _, block in read.blocks(names[0]))
    np.testing.assert_array_equal(first, checkpoint.shards.rows(names[0], slice(None)))
    for name in names[1:MATRICES]:
        list(read.blocks(name))
    assert next(read.blocks(names[0]))[1] is first
    list(read.blocks(names[MATRICES]))
    assert set(read.read) == {names[0], *names[2:]}  # the one that was read longest ago went
    read.forget()
    assert not read.read
