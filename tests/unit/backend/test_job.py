"""A job and a model survive the way to another process and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slmkit.backend.job import JobDescription, job_from_json, model_from_json, spec_to_json
from slmkit.errors import BundleError
from slmkit.interpreters.recorder import summarize
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from tiny_models import TINY, tiny_config


def spec_of(architecture):
    return read_spec(Config(tiny_config(architecture), "config.json"))


@pytest.mark.parametrize("architecture", TINY)
def test_a_model_survives_json(architecture):
    spec = spec_of(architecture)
    assert model_from_json(json.loads(json.dumps(spec_to_json(spec)))) == summarize(spec)


def test_a_fact_of_another_version_is_refused():
    values = spec_to_json(spec_of("olmoe"))
    values["mixture"] = values.pop("moe")
    with pytest.raises(BundleError, match="another version of slmkit: unknown mixture"):
        model_from_json(values)


def test_a_description_survives_json_and_its_facts_name_no_path(tmp_path):
    described = JobDescription(
        artifact="abacus",
        checkpoint=tmp_path / "model",
        codes=tmp_path / "codes.safetensors",
        options={"beads": [1, 2]},
        context_length=64,
        prefill_chunk=16,
        about={"model": "home"},
        calibration=((1, 2), (3,)),
        cache=tmp_path,
    )
    again = job_from_json(json.loads(json.dumps(described.as_json())))
    assert again == described and isinstance(again.codes, Path)
    assert str(tmp_path) not in json.dumps(described.facts())
