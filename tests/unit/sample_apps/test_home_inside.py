"""The sample model inside both sample apps: whole, right, and not part of the wheel's templates."""

from __future__ import annotations

import fnmatch
import tomllib

import numpy as np
import pytest

from app_tools import APPS, ROOT
from slmkit.app.cases import Cases
from slmkit.app.chat_form import ChatForm
from slmkit.app.chat_proof import chat_form
from slmkit.app.project import CASES, CHAT, MODEL, TOKENS
from slmkit.app.template import read_template
from slmkit.app.tokens import Tokens, read_tokens
from slmkit.backend.artifact import Artifact
from slmkit.backend.registry import find_backend
from slmkit.bundle.export import EXPORT, Export
from slmkit.bundle.verify import check_files
from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint

ARTIFACTS = {"android": ("ort", "shipped"), "ios": ("coreml", "float16")}  # with the phone's mode
AGREES = 20  # dB of the reference's best logits; another model's are below 0
GREEDY = 0.95  # share of steps whose best id is the reference's


def inside(platform):
    """The folder that an app's own model lies in."""
    return APPS / platform / read_template(platform)[1].models


def told(platform):
    return Export.model_validate_json((inside(platform) / MODEL / EXPORT).read_text("utf-8"))


@pytest.mark.parametrize("platform", ARTIFACTS)
def test_every_file_is_what_the_export_s_manifest_says_and_no_other_is_there(platform):
    folder, export = inside(platform) / MODEL, told(platform)
    assert (export.model, export.artifact) == ("home", ARTIFACTS[platform][0])
    check_files(folder, export.files)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {EXPORT, *(file.path for file in export.files)}


@pytest.mark.parametrize("platform", ARTIFACTS)
def test_tokenizer_tokens_and_chat_form_are_the_sample_model_s(platform):
    place = inside(platform) / MODEL / (told(platform).tokenizer or "") / "tokenizer.json"
    assert place.read_bytes() == (SAMPLE_MODEL / "tokenizer.json").read_bytes()
    form = ChatForm.model_validate_json((inside(platform) / CHAT).read_text("utf-8"))
    assert form == chat_form(open_checkpoint(SAMPLE_MODEL).tokenizer)
    tokens = Tokens.model_validate_json((inside(platform) / TOKENS).read_text("utf-8"))
    assert tokens == read_tokens(place)


@pytest.mark.parametrize("platform", ARTIFACTS)
def test_the_self_test_s_cases_pass(platform):
    """As the apps replay them, on the very files: ONNX Runtime, and our evaluator for Core ML."""
    export, (name, mode) = told(platform), ARTIFACTS[platform]
    parts = (export.inputs, export.outputs, export.state, export.facts)
    artifact = Artifact(name, "", export.format, (), *parts)
    runner = find_backend(name).open_runner(inside(platform) / MODEL, artifact, mode)
    cases = Cases.model_validate_json((inside(platform) / CASES).read_text("utf-8")).cases
    signal, noise, same = 0.0, 0.0, []
    for case in cases if platform == "android" else cases[:1]:  # the evaluator takes its time
        runner.reset()
        ids = [*case.prompt_ids, *(step.id for step in case.steps[:-1])]
        found = runner.feed(np.array(ids))[-len(case.steps) :]
        for logits, step in zip(found, case.steps, strict=True):
            best, want = np.transpose(step.top)
            signal += (want**2).sum()
            noise += ((logits[best.astype(int)] - want) ** 2).sum()
            same.append(logits.argmax() == best[0])
    assert 10 * np.log10(signal / noise) > AGREES
    assert np.mean(same) >= GREEDY


def test_the_wheel_leaves_the_apps_models_out():
    """They would be there for nothing: a project gets its own, and the wheel has the checkpoint."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    left_out = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["exclude"]
    for platform in ARTIFACTS:
        for name in (MODEL, CHAT, CASES, TOKENS):
            path = inside(platform) / name
            place = f"/{path.relative_to(ROOT).as_posix()}"
            whole = [pattern for pattern in left_out if place.startswith(f"{pattern}/")]
            assert whole or any(fnmatch.fnmatch(place, pattern) for pattern in left_out), place
