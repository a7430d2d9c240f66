"""What a library keeps of each sequence: a KV cache, recurrent states, or both."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mlc_artifacts import mlc_job

from slmkit.backends import find_backend
from slmkit.record import State
from slmkit_mlc.definition import definition_for
from slmkit_mlc.gpus import known_gpus
from slmkit_mlc.signatures import expected_signatures
from slmkit_mlc.sizes import kept_by, state_layers

MAKERS = {"kv_cache": "create_tir_paged_kv_cache", "rnn_state": "create_rnn_state"}


@pytest.mark.parametrize(("row", "kind"), [("qwen2", "kv_cache"), ("mamba2", "rnn_state")])
def test_the_library_says_what_it_keeps(tiny, tmp_path, row, kind):
    definition = definition_for(mlc_job(tiny(row), tmp_path))
    assert kept_by(definition.model) == (kind,)
    assert definition.metadata("q")["kv_state_kind"] == kind
    expected = expected_signatures(definition, known_gpus()["adreno"])
    assert {*MAKERS.values()} & {*expected} == {MAKERS[kind]}
    assert expected["decode"]["inputs"].count("object") == 1


def test_a_model_of_both_takes_both(tiny, tmp_path):
    model = mlc_job(tiny("mamba"), tmp_path).model
    both = replace(model, attended=(2,))
    assert kept_by(both) == ("kv_cache", "rnn_state")
    assert state_layers(both) == [0, 1]


def test_layers_that_keep_other_sizes_are_refused(tiny, tmp_path):
    job = mlc_job(tiny("mamba"), tmp_path)
    states = (*job.model.states, State(2, "conv", (8, 3)))
    found = find_backend("mlc").problems(
        replace(job.model, states=states), job.codes.schemes, job.options
    )
    assert found == ["mlc's recurrent state has the same sizes in every layer that has one"]
