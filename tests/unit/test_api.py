"""The public API, used as a notebook would use it, and equal to what the commands do."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import slmkit
from slmkit.cli.main import main
from slmkit.errors import EXIT_CODES
from slmkit.recipe.bounds import Bound


def test_a_notebook_runs_from_config_to_score(tiny, tmp_path):
    model = str(tiny("qwen3"))

    estimate = slmkit.estimate(f"{model}/config.json", target="android", artifacts=["ort"])
    assert estimate.artifacts[0].size > 0
    estimate.check()

    recipe = slmkit.Recipe.load("int4").override("*.down_proj", bits=8)
    bundle = slmkit.build(
        model,
        target="android",
        recipe=recipe,
        artifacts=["ort"],
        options={"ort": {"accuracy_level": 0}},
        out=str(tmp_path / "dist"),
    )
    assert {each.error for each in bundle.parity} == {"lowering", "quantization"}
    assert all(each.passed for each in bundle.parity)
    assert bundle.manifest.artifact("ort").facts["accuracy_level"] == 0
    assert bundle.verify() == len(bundle.manifest.files)
    assert bundle.size == sum(file.size for file in bundle.manifest.files)

    again = slmkit.Bundle(str(bundle.path)).recheck(model=model)
    again.check()
    assert [each.metrics for each in again.comparisons] == [each.metrics for each in bundle.parity]

    session = bundle.load("ort")
    answer = session.generate("the quick brown fox", max_tokens=6)
    assert answer == "".join(session.stream("the quick brown fox", max_tokens=6))
    ids = np.arange(3, 40)
    logits = session.logits(ids)
    assert logits.shape == (37, 320) and logits.dtype == np.float32
    expected = slmkit.load(model).logits(ids)
    assert np.corrcoef(logits.ravel(), expected.ravel())[0, 1] > 0.9

    task = tmp_path / "task.jsonl"
    greedy = session.generate("lights", max_tokens=96)
    lines = [{"prompt": "lights", "answer": greedy}, {"prompt": "lights", "answer": "no"}]
    task.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    score = session.evaluate(str(task))
    assert (score.right, score.total) == (1, 2)

    taps = slmkit.compare_layers(model, target="android", artifact="ort")
    assert taps[-1].name == "logits" and all(tap.good for tap in taps)
    assert slmkit.inspect(model).parameters == bundle.manifest.model.parameters


def test_the_targets_are_those_of_the_command():
    listed = json.loads(CliRunner().invoke(main, ["targets", "--json"]).stdout)
    found = slmkit.targets()
    assert [(each["name"], tuple(each["artifacts"])) for each in listed] == [
        (name, artifacts) for name, (_, artifacts) in found.items()
    ]


def test_a_failed_bound_is_a_parity_error_and_leaves_no_bundle(tiny, tmp_path):
    recipe = slmkit.Recipe.load("int4")
    strict = recipe.model_copy(update={"parity": {"quantization": Bound(snr_db=90)}})
    with pytest.raises(slmkit.ParityError, match="below 90 dB"):
        slmkit.build(
            tiny("llama"), target="android", recipe=strict, artifacts=["ort"], out=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (slmkit.CheckpointError, lambda: slmkit.inspect("nowhere")),
        (slmkit.BundleError, lambda: slmkit.Bundle("nowhere").verify()),
        (slmkit.RecipeError, lambda: slmkit.Recipe.load("nowhere")),
        (slmkit.UsageError, lambda: slmkit.estimate(target="ios", artifacts=["ort"])),
        (slmkit.RefusedError, lambda: slmkit.estimate(target="ios", memory_limit=1000).check()),
        (
            slmkit.RefusedError,
            lambda: slmkit.build(target="android", options={"ort": {"accuracy_level": 3}}),
        ),
    ],
)
def test_each_error_has_its_class_and_exit_code(error, call):
    with pytest.raises(error) as caught:
        call()
    assert caught.value.message and caught.value.hint
    assert caught.value.exit_code in EXIT_CODES


def test_importing_slmkit_loads_no_library():
    heavy = ("numpy", "pydantic", "yaml", "rich", "tokenizers", "onnx", "click")
    code = f"import slmkit, sys; print([name for name in {heavy} if name in sys.modules])"
    path = Path(slmkit.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_everything_public_is_there_and_says_what_it_does():
    for name in slmkit.__all__:
        found = getattr(slmkit, name)
        assert name == "__version__" or inspect.getdoc(found), name
    with pytest.raises(AttributeError, match="no attribute 'bild'"):
        slmkit.bild  # noqa: B018
