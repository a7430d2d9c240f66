"""A real client: onnxruntime-genai's decoder-pipeline runs the artifact on the emulator.

0.15.2 is the last version that runs this contract; it gets an environment of its own, because the
ort artifact's tests need a newer one.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import tempfile
import venv
from pathlib import Path

import numpy as np
import pytest

from artifacts import emitted
from hexagon_artifacts import hexagon_job
from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.inference.generate import Sampler, generate
from slmkit.planning.calibration import calibration_texts
from slmkit_onnx.hexagon.modes import open_runner
from slmkit_onnx.hexagon.qnn.socs import SOCS

PACKAGES = ("onnxruntime-genai==0.15.2", "onnxruntime-qnn==2.7.0")
PROGRAM = Path(__file__).parents[2] / "fixtures" / "genai_pipeline.py"
PROMPTS = (  # shorter and longer than the window of 16 tokens
    "turn off the kitchen lights",
    "remind me to call the dentist tomorrow at nine",
)
COUNT = 16


@pytest.fixture(scope="module")
def python():
    """The interpreter of an environment with the old genai; removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="slmkit-genai-") as folder:
        venv.create(folder, with_pip=True)
        found = Path(folder) / "bin" / "python"
        command = [str(found), "-m", "pip", "install", "--quiet", *PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no environment with {' '.join(PACKAGES)}: {done.stderr[-200:]}")
        yield found


@pytest.mark.own_environment
def test_genai_gives_our_greedy_tokens_on_the_emulator(tmp_path, python):
    checkpoint = open_checkpoint(SAMPLE_MODEL)
    job = dataclasses.replace(
        hexagon_job(SAMPLE_MODEL, tmp_path, runtime="genai"),
        calibration=calibration_texts(checkpoint, None),
    )
    folder = tmp_path / "hexagon"
    artifact = emitted(job, folder)
    prompts = [checkpoint.tokenizer.prompt_ids(text) for text in PROMPTS]
    assert len(prompts[0]) < 16 < len(prompts[1])
    runner = open_runner(folder, artifact, "sm8650")
    ours = [list(generate(runner, ids, (), COUNT, Sampler(), 16)) for ids in prompts]
    command = [
        str(python),
        str(PROGRAM),
        str(folder),
        json.dumps(prompts),
        str(COUNT),
        str(SOCS["sm8650"].id),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    said = next(line for line in done.stdout.splitlines() if line.startswith("TOKENS"))
    theirs = json.loads(said.removeprefix("TOKENS"))
    stop = checkpoint.tokenizer.stop_ids[0]
    for mine, other in zip(ours, theirs, strict=True):
        until = other.index(stop) + 1 if stop in other else COUNT  # genai ends at a stop token
        assert len(other) == until
        np.testing.assert_array_equal(mine[:until], other)
