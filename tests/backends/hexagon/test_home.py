"""The sample model on Hexagon's emulator is as good at its job as on the CPU."""

from __future__ import annotations

import dataclasses

import pytest

from artifacts import emitted
from hexagon_artifacts import hexagon_job
from home_answers import SENTENCES, right_answers
from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.inference.load import load
from slmkit.planning.calibration import calibration_texts
from slmkit.system.progress import Silent
from slmkit.workflows.build import build
from slmkit_onnx.hexagon.modes import open_runner
from tiers import TASK
from tiny_models import ort_request

CONTEXT, CHUNK = 128, 64


@pytest.mark.full(TASK)
def test_int4_on_the_emulator_is_within_a_point_of_int8_on_the_cpu(tmp_path):
    checkpoint = open_checkpoint(SAMPLE_MODEL)
    job = dataclasses.replace(
        hexagon_job(SAMPLE_MODEL, tmp_path),
        calibration=calibration_texts(checkpoint, None),
        context_length=CONTEXT,
        prefill_chunk=CHUNK,
    )
    artifact = emitted(job, tmp_path / "hexagon")
    emulated = open_runner(tmp_path / "hexagon", artifact, "sm8650")
    on_cpu = load(build(ort_request(SAMPLE_MODEL, "int8", tmp_path / "out"), Silent()).folder)
    expected = right_answers(on_cpu.runner, checkpoint.tokenizer)
    assert expected >= 0.95 * SENTENCES
    assert right_answers(emulated, checkpoint.tokenizer) >= expected - 0.01 * SENTENCES
