"""Sizes of activations: what is kept, of which tokens, and files that hold it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from artifacts import CONTEXT, texts_of
from observed import TEXTS, observed
from outlier_twins import PEAK, Listening, outlier_twin
from slmkit.activations.observe import (
    KINDS,
    Activations,
    calibration_runs,
    load_activations,
    load_runs,
    observe,
    save_activations,
    save_runs,
)
from slmkit.checkpoint.folder import open_checkpoint

LINES = [[1, *range(10, 10 + length)] for length in (3, 400, 50, 299, 120, 7)]
names = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8)
floats = st.floats(0, 2.0**100, width=32, allow_subnormal=False)
sizes = st.dictionaries(
    names, arrays.arrays(np.float32, st.integers(1, 9), elements=floats), max_size=4
)


def test_runs_are_the_beginnings_of_texts():
    runs = calibration_runs(LINES, length=256, tokens=10_000)
    assert [run.tolist() for run in runs] == [text[:256] for text in LINES]


@given(
    st.lists(st.integers(1, 600), min_size=1, max_size=400),
    st.integers(1, 300),
    st.integers(1, 3000),
)
def test_runs_are_evenly_chosen_and_few(lengths, length, tokens):
    texts = [[number] * size for number, size in enumerate(lengths)]
    runs = calibration_runs(texts, length, tokens)
    chosen = [int(run[0]) for run in runs]
    assert chosen == sorted(set(chosen))
    assert all(
        len(run) == min(len(texts[at]), length) for at, run in zip(chosen, runs, strict=True)
    )
    steps = np.diff(chosen)
    assert len(steps) == 0 or steps.max() - steps.min() <= 1
    mean = np.mean([min(size, length) for size in lengths])
    assert len(runs) <= max(1, tokens / mean)  # of texts that are alike, not one token more


def test_what_reads_and_makes_a_channel_is_kept_under_its_weight_s_name(tiny):
    checkpoint = open_checkpoint(tiny("llama"))
    found = observed(checkpoint)
    linears = checkpoint.model.multiplied
    norms = {weight.name for weight in checkpoint.model.weights.values() if weight.kind == "norm"}
    assert found.tokens == TEXTS * CONTEXT
    assert set(found.inputs) == set(found.peaks) == linears
    assert set(found.outputs) == (linears | norms) - {"lm_head"}
    assert set(found.stream) == norms - {"model.layers.0.input_layernorm"}
    assert found.outputs["model.layers.0.mlp.up_proj"].shape == (96,)
    assert found.inputs["model.layers.0.mlp.down_proj"].shape == (96,)


def test_sizes_are_the_largest_of_all_texts(tiny):
    checkpoint = open_checkpoint(tiny("llama"))
    found, name = observed(checkpoint), "model.layers.1.mlp.down_proj"
    heard = [Listening(checkpoint.shards, ids) for ids in texts_of(checkpoint, TEXTS)]
    for each in heard:
        checkpoint.model.run(each)
    whole = np.stack([np.abs(each.inputs[name]) for each in heard])
    np.testing.assert_allclose(found.peaks[name], whole.max(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(found.inputs[name], whole[:, 1:].max(axis=(0, 1)), rtol=1e-5)


@pytest.mark.parametrize("row", ["llama", "olmoe", "mamba2"])
def test_inputs_leave_out_the_sink(tmp_path, row):
    checkpoint = open_checkpoint(outlier_twin(tmp_path / "twin", row))
    found = observed(checkpoint)
    at = max(found.peaks, key=lambda name: found.peaks[name].max())
    assert found.peaks[at].max() > PEAK / 16
    assert found.inputs[at].max() < found.peaks[at].max() / 50
    assert max(size.max() for size in found.stream.values()) == pytest.approx(PEAK, rel=0.2)


def test_a_matrix_as_tall_as_the_vocabulary_is_no_head(tiny):
    checkpoint = open_checkpoint(tiny("llama", intermediate_size=320))
    assert observed(checkpoint).outputs["model.layers.0.mlp.up_proj"].shape == (320,)


def test_a_text_of_one_token_has_inputs_of_nothing(tiny):
    checkpoint = open_checkpoint(tiny("llama"))
    found = observe(checkpoint.shards, checkpoint.model, [np.array([1])], lambda done: None)
    assert all(size.max() == 0 for size in found.inputs.values())
    assert all(size.max() > 0 for size in found.peaks.values())


def test_progress_is_told_of_every_sublayer(tiny):
    told: list[int] = []
    checkpoint = open_checkpoint(tiny("gemma3"))
    observe(checkpoint.shards, checkpoint.model, texts_of(checkpoint, TEXTS), told.append)
    assert sum(told) == 2 * checkpoint.spec.layers


@given(st.integers(0, 10**9), st.tuples(sizes, sizes, sizes, sizes))
@settings(max_examples=40)
def test_activations_survive_the_file(tokens, parts):
    kept = Activations(tokens, **dict(zip(KINDS, parts, strict=True)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "activations.safetensors"
        save_activations(kept, path)
        again = load_activations(path)
    assert again.tokens == tokens
    for kind, part in zip(KINDS, parts, strict=True):
        found = getattr(again, kind)
        assert found.keys() == part.keys()
        for name, size in part.items():
            np.testing.assert_array_equal(found[name], size)


@given(st.lists(st.lists(st.integers(0, 300_000), max_size=20), max_size=5))
@settings(max_examples=40)
def test_runs_survive_the_file(runs):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "parity" / "calibration.json"
        save_runs([np.array(run, dtype=np.int64) for run in runs], path)
        assert [run.tolist() for run in load_runs(path)] == runs
