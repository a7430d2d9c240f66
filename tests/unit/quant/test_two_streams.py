"""The two streams: both equal the reference, in batches, with values kept in files."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts import texts_of
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.interpreters.reference import logits
from slmkit.models import registry
from slmkit.quant import two_streams
from slmkit.quant.two_streams import (
    FLOAT,
    MATRICES,
    QUANTIZED,
    Matrices,
    Stored,
    TwoStreams,
)
from tiers import ROWS, SAYS_MOST, some
from tiny_models import TINY


class Watched(TwoStreams):
    """Evaluates the input of each linear, as calibration does; changes no weight."""

    seen: tuple[str, ...] = ()

    def fit(self, x, projections):
        x.keep()
        self.seen += tuple(each.name for each in projections)
        for batch in range(len(self.batches)):
            for stream in (FLOAT, QUANTIZED):
                x.at(batch, stream)
            self.memo[batch].clear()


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


def test_files_go_with_their_values(tiny, tmp_path):
    checkpoint = open_checkpoint(tiny("llama"))
    folder = tmp_path / "values"
    folder.mkdir()
    streams = Watched((checkpoint.shards,) * 2, texts_of(checkpoint, 2), folder)
    result = registry.run(streams, checkpoint.spec)
    used = len(list(folder.iterdir()))
    assert 0 < used < next(streams.files) - 1  # of layers that are behind, no file is left
    del result, streams.stream
    streams.memo.clear()
    assert not list(folder.iterdir())


def test_texts_are_put_together_up_to_the_size_of_a_batch(monkeypatch):
    monkeypatch.setattr(two_streams, "BATCH", 10)
    texts = [np.arange(n) for n in (4, 6, 1, 12, 3)]
    batches = two_streams.batches_of(texts)
    assert [[len(ids) for ids in batch] for batch in batches] == [[4, 6], [1], [12], [3]]


@pytest.mark.parametrize("shape", [(3, 5), (0, 5), (2, 3, 4)])
def test_an_array_in_a_file_is_read_as_it_was_written(tmp_path, shape):
    numbers = np.random.default_rng(1).standard_normal((4, 3, 5)).astype(np.float32)
    numbers = np.resize(numbers, shape).astype(np.float32)
    stored = Stored.write(tmp_path / "numbers", numbers.T)
    np.testing.assert_array_equal(stored.read(), numbers.T)


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
