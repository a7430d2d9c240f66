"""Two real GGUF files, SmolLM2-135M-Instruct (Q4_1) and Gemma 3 270M (Q4_K_M), end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gguf", reason="GGUF files need the package gguf")

from optional_data import needs, path_of
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.inference.load import ReferenceRunner
from slmkit.planning.plan import Request
from slmkit.system.progress import Silent
from slmkit.workflows.build import build
from slmkit.workflows.estimate import estimate

SMOLLM2, GEMMA3 = "gguf/smollm2.gguf", "gguf/gemma3.gguf"
LONG = "whole builds of a real model: up to an hour each"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ARTIFACTS = {"android": ("ort", "hexagon", "litert", "mlc"), "ios": ("coreml", "mlc")}


@needs(SMOLLM2)
def test_smollm2_answers_by_its_own_template() -> None:
    checkpoint = open_checkpoint(path_of(SMOLLM2)).at_build_day()
    tokenizer = checkpoint.tokenizer
    ids = tokenizer.chat_ids(QUESTION)
    runner, answer = ReferenceRunner(checkpoint.shards, checkpoint.spec), list[int]()
    logits = runner.feed(np.array(ids))[-1]
    while len(answer) < 12 and int(logits.argmax()) not in tokenizer.stop_ids:
        answer.append(int(logits.argmax()))
        logits = runner.feed(np.array(answer[-1:]))[-1]
    assert "Paris" in tokenizer.decode(answer)


@pytest.mark.parametrize(
    ("name", "formats", "exact"),
    [
        pytest.param(SMOLLM2, {"Q4_1", "Q8_0"}, {"ort", "mlc", "coreml"}, marks=needs(SMOLLM2)),
        pytest.param(GEMMA3, {"Q5_0", "Q8_0", "Q6_K", "Q4_K"}, {"ort", "mlc"}, marks=needs(GEMMA3)),
    ],
)
def test_a_plan_says_what_becomes_of_each_format(
    name: str, formats: set[str], exact: set[str]
) -> None:
    for target, artifacts in ARTIFACTS.items():
        found = estimate(Request(path_of(name), target, "int4", context=512, artifacts=artifacts))
        assert {row.format for row in found.imports} == formats
        fates = {
            (row.format, artifact)
            for row in found.imports
            for artifact, fate in row.artifacts.items()
            if fate == "exact"
        }
        assert fates == {("Q8_0", artifact) for artifact in exact & set(artifacts)}
        assert not any(each.refused for each in found.artifacts)


@pytest.mark.full(LONG)
@pytest.mark.parametrize("target", ["android", "ios"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs(name)) for name in (SMOLLM2, GEMMA3)]
)
def test_every_artifact_of_a_real_file_is_proved(name: str, target: str, tmp_path: Path) -> None:
    artifacts = ARTIFACTS[target]
    request = Request(path_of(name), target, "int4", tmp_path, context=512, artifacts=artifacts)
    manifest = build(request, Silent()).manifest
    assert {each.artifact for each in manifest.parity} >= set(artifacts)
    assert all(each.passed for each in manifest.parity)
    assert manifest.quality is not None and manifest.quality.passed
    assert any("stored as" in notice for notice in manifest.notices)
