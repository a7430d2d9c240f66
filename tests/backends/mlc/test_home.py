"""The sample model through mlc's program on this processor, in the type that ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from home_answers import SENTENCES, right_answers
from mlc_artifacts import mlc_job
from slmkit.backend.interface import Artifact
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit_mlc.lowering.definition import definition_for
from slmkit_mlc.runner import MlcRunner
from slmkit_mlc.writer import write_params

HOME = Path(__file__).resolve().parents[3] / "toolkit" / "slmkit" / "sample_model"


@pytest.mark.parametrize("scheme", ["", "float16"])
def test_the_sample_model_does_its_job(tmp_path, scheme):
    job = mlc_job(HOME, tmp_path, scheme, "ios", context_length=128, prefill_chunk=128)
    definition = definition_for(job)
    definition.write(tmp_path)
    write_params(definition, job, tmp_path / "params")
    artifact = Artifact("mlc", "", "", (), (), (), {"params": "params"})
    runner = MlcRunner(tmp_path, artifact, "float16")
    assert right_answers(runner, Tokenizer(HOME)) == SENTENCES
