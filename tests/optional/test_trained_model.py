"""A public trained model, stories260K, through every artifact; its author published its text.

Its head width of 8 is divided by no group, and its attention scores span 500.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import coreml_artifacts
import litert_artifacts
from artifacts import FLOAT32_FLOOR, reference_of, snr_db
from hexagon_artifacts import check_ladder, hexagon_job
from mlc_artifacts import FLOAT16_FLOOR, machine_of, mlc_job, run_machine
from optional_data import STORIES, needs, path_of
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.cli.main import main
from slmkit.inference.load import ReferenceRunner, load
from slmkit.system.progress import Silent
from slmkit.workflows.build import build
from slmkit_mlc.lowering.program import PARITY_FUNCTIONS
from tiny_models import ort_request

pytestmark = needs(STORIES)
FOLDER = path_of(STORIES)
INT8_CHARACTERS = 100  # of 565; measured: 295 as it ships, 175 at level 0


def published() -> str:
    """The text of temperature 0, as the model's author gives it."""
    return (FOLDER / "GOLDEN_GREEDY.txt").read_text(encoding="utf-8").strip()


def told_by(runner, length: int) -> list[int]:
    """Greedy tokens after the bos token."""
    ids, token = [], 1
    for _ in range(length):
        token = int(runner.feed(np.array([token]))[-1].argmax())
        ids.append(token)
    return ids


def test_the_reference_tells_the_published_story_to_the_letter() -> None:
    checkpoint = open_checkpoint(FOLDER)
    length = len(checkpoint.tokenizer.encode(published())) - 1
    ids = told_by(ReferenceRunner(checkpoint.shards, checkpoint.spec), length)
    assert checkpoint.tokenizer.decode(ids).strip() == published()


@pytest.mark.parametrize("recipe", ["float16", "int8"])
def test_the_published_story_comes_out_of_ort_and_of_genai(tmp_path: Path, recipe: str) -> None:
    from genai_tokens import genai_tokens

    folder = build(ort_request(FOLDER, recipe, tmp_path), Silent()).folder
    tokenizer = load(folder).tokenizer
    length = len(tokenizer.encode(published())) - 1
    story = tokenizer.decode(told_by(load(folder, mode="exact").runner, length)).strip()
    same = [ours == theirs for ours, theirs in zip(story, published(), strict=False)]
    agreed = same.index(False) if False in same else len(published())
    assert agreed >= (len(published()) if recipe == "float16" else INT8_CHARACTERS)
    assert genai_tokens(folder, [1], length) == told_by(load(folder).runner, length)


def test_hexagon_keeps_its_floors_with_scores_far_apart(tmp_path: Path) -> None:
    """A mask of -50 would show the future to calibration."""
    check_ladder(hexagon_job(FOLDER, tmp_path), tmp_path / "hexagon")
    facts = json.loads((tmp_path / "hexagon" / "calibration.json").read_text())
    assert facts["hidden"] < -100


def test_coreml_keeps_its_floors(tmp_path: Path) -> None:
    job = coreml_artifacts.coreml_job(FOLDER, tmp_path, "int8-per-channel")
    coreml_artifacts.check_floors(job, tmp_path / "coreml")


def test_litert_keeps_its_floors(tmp_path: Path) -> None:
    job = litert_artifacts.litert_job(FOLDER, tmp_path, "int4-g32")
    litert_artifacts.check_floors(job, tmp_path / "litert")


def test_mlc_keeps_its_floors(tmp_path: Path) -> None:
    job = mlc_job(FOLDER, tmp_path, "int4-g32")
    expected = reference_of(job)
    for dtype, floor in (("float32", FLOAT32_FLOOR), ("float16", FLOAT16_FLOOR)):
        machine, _ = machine_of(job, tmp_path / dtype, dtype, PARITY_FUNCTIONS)
        assert snr_db(expected, run_machine(machine, job)) > floor


@pytest.mark.parametrize(
    "target", [("android", "ort"), ("android", "hexagon"), ("ios", "coreml")], ids=lambda it: it[1]
)
def test_every_layer_of_an_artifact_is_good(target: tuple[str, str]) -> None:
    words = ["trace", "--target", target[0], "--artifact", target[1], "--recipe", "int8"]
    done = CliRunner().invoke(main, [*words, "--model", str(FOLDER), "--json"])
    assert done.exit_code == 0, done.stderr
    taps = json.loads(done.stdout)
    assert len(taps) > 10 and all(tap["good"] for tap in taps)
