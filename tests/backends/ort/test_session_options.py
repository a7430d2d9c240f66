"""The option that leaves out KleidiAI's kernels: for the runner, for genai, for an app."""

from __future__ import annotations

import json

import pytest

from artifacts import emitted, make_job
from slmkit_onnx.ort.options import problems

ENTRY = {"mlas.disable_kleidiai": "1"}


@pytest.mark.parametrize(("options", "entries"), [({}, {}), ({"kleidiai": False}, ENTRY)])
def test_entries_are_facts_and_in_genai_s_config(tiny, tmp_path, options, entries):
    job = make_job("ort", tiny("llama"), tmp_path, options=options)
    artifact = emitted(job, tmp_path / "ort")
    assert artifact.facts.get("session_options", {}) == entries
    config = json.loads((tmp_path / "ort" / "genai_config.json").read_text(encoding="utf-8"))
    found = config["model"]["decoder"]["session_options"]
    assert {key: value for key, value in found.items() if key.startswith("mlas.")} == entries


def test_other_values_are_refused(tiny, tmp_path):
    job = make_job("ort", tiny("llama"), tmp_path)
    (said,) = problems(job.model, {}, {"kleidiai": "no"})
    assert "kleidiai" in said
