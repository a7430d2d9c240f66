"""What a library keeps of each sequence: a KV cache, recurrent states, or both."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlc_artifacts import mlc_job
from slmkit.backend.registry import find_backend
from slmkit.interpreters.recorder import State
from slmkit_mlc.gpus import known_gpus
from slmkit_mlc.lowering.definition import definition_for
from slmkit_mlc.lowering.signatures import expected_signatures
from slmkit_mlc.sizes import state_kinds, state_layers
from slmkit_mlc.writer import modes_of

MAKERS = {"kv_cache": "create_tir_paged_kv_cache", "rnn_state": "create_rnn_state"}


@pytest.mark.parametrize(("row", "kind"), [("qwen2", "kv_cache"), ("mamba2", "rnn_state")])
def test_the_library_says_what_it_keeps(tiny, tmp_path, row, kind):
    definition = definition_for(mlc_job(tiny(row), tmp_path))
    assert state_kinds(definition.model) == (kind,)
    assert definition.metadata("q")["kv_state_kind"] == kind
    expected = expected_signatures(definition, known_gpus()["adreno"])
    assert {*MAKERS.values()} & {*expected} == {MAKERS[kind]}
    assert expected["decode"]["inputs"].count("object") == 1


@pytest.mark.parametrize(
    ("row", "dtype"), [("qwen2", "float16"), ("lfm2", "float16"), ("granite-hybrid", "float32")]
)
def test_models_of_scans_compute_in_float32(tiny, tmp_path, row, dtype):
    definition = definition_for(mlc_job(tiny(row), tmp_path))
    assert definition.dtype == dtype
    expected = expected_signatures(definition, known_gpus()["adreno"])
    assert expected["embed"]["outputs"] == [f"[seq_len, 64] {dtype}"]
    shipped = [(mode.name, mode.bounds) for mode in modes_of((), dtype)]
    assert shipped[0] == ("float32", {"reference": "lowering"})
    assert shipped[-1][0] == dtype


def test_a_hybrid_takes_both(tiny, tmp_path):
    definition = definition_for(mlc_job(tiny("lfm2"), tmp_path))
    assert state_kinds(definition.model) == ("kv_cache", "rnn_state")
    assert definition.metadata("q")["kv_state_kind"] == "hybrid"
    expected = expected_signatures(definition, known_gpus()["apple"])
    assert {*MAKERS.values()} <= {*expected}
    assert expected["batch_decode"]["outputs"].count("object") == 2
    assert set(state_layers(definition.model)).isdisjoint(definition.model.attention_layers)


def test_layers_that_keep_other_sizes_are_refused(tiny, tmp_path):
    job = mlc_job(tiny("mamba"), tmp_path)
    states = (*job.model.states, State(2, "conv", (8, 3)))
    found = find_backend("mlc").problems(
        replace(job.model, states=states), job.codes.schemes, job.options
    )
    assert found == ["mlc's recurrent state has the same sizes in every layer that has one"]
