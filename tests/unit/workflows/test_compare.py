"""Two models side by side: each measure is the one that its own command gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import slmkit
from harness_tasks import ROWS, write_tasks
from slmkit.checkpoint.folder import SAMPLE_MODEL
from slmkit.errors import UsageError
from slmkit.evaluation.flips import mcnemar
from slmkit.evaluation.text import UNSCORED, evaluation_text
from slmkit.inference.evaluate import HELD_OUT
from slmkit.workflows.compare import compare
from slmkit.workflows.evaluate import evaluate_text

SMALL: dict[str, Any] = {"window": 40, "tokens": 200, "cache": False}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """The sample model as two bundles, by recipe."""
    out = tmp_path_factory.mktemp("bundles")
    return {
        recipe: slmkit.build(
            SAMPLE_MODEL, target="android", recipe=recipe, artifacts=["ort"], out=out, cache=False
        )
        for recipe in ("int4", "int8")
    }


def test_bundles_have_the_sizes_of_their_files_and_the_divergence_of_eval(bundles):
    found = compare(bundles["int4"].path, bundles["int8"].path, **SMALL)
    for side, bundle in zip((found.first, found.second), bundles.values(), strict=True):
        files = [path for path in (bundle.path / "ort").rglob("*") if path.is_file()]
        assert side.size == sum(path.stat().st_size for path in files)
        assert side.memory == bundle.manifest.artifact("ort").memory.total
        alone = evaluate_text(bundle.path, **SMALL)
        assert side.divergence.kl == pytest.approx(alone.divergence.kl, rel=1e-6)
        assert side.divergence.perplexity == pytest.approx(alone.divergence.perplexity)
        assert side.divergence.flips == alone.divergence.flips
        assert side.decode is not None and side.decode > 1
    assert found.first.size < found.second.size
    assert found.first.divergence.kl > 3 * found.second.divergence.kl
    assert "float32 reference" in found.against


def test_flips_are_between_the_two_models(bundles):
    found = compare(bundles["int4"].path, SAMPLE_MODEL, **SMALL)
    sessions = [bundles["int4"].load(), slmkit.load(SAMPLE_MODEL)]
    text = evaluation_text(sessions[0].tokenizer, None, 40, 200)
    scored = text.following != UNSCORED
    right = []
    for session in sessions:
        best = np.concatenate([session.logits(ids).argmax(1) for ids in text.sequences])
        right.append((best == text.following)[scored])
    lost, won = (right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum()
    assert (found.flips.lost, found.flips.won, found.flips.items) == (lost, won, scored.sum())
    assert found.flips.p_value == mcnemar(int(lost), int(won))
    assert found.second.divergence.kl == 0
    assert (found.second.memory, found.second.decode) == (None, None)


def test_recipes_of_a_model_are_compared_before_anything_is_built(tiny):
    model = tiny("llama")
    found = compare("int4", slmkit.Recipe.load("int8"), model=model, **SMALL)
    assert (found.first.name, found.second.name) == ("int4", "int8")
    assert found.first.divergence.kl > found.second.divergence.kl > 0
    alone = evaluate_text(model, recipe="int4", **SMALL)
    assert found.first.divergence.kl == pytest.approx(alone.divergence.kl, rel=1e-6)
    estimated = slmkit.estimate(model, target="android", recipe="int4", artifacts=["ort"])
    planned = compare("int4", "int8", model=model, artifact="ort", **SMALL).first
    assert planned.size == estimated.artifacts[0].size
    assert planned.memory == estimated.artifacts[0].memory.total
    assert planned.decode is None


def test_answers_are_counted_and_their_flips_too(bundles, tiny):
    found = compare(bundles["int4"].path, bundles["int8"].path, answers=HELD_OUT, limit=4, **SMALL)
    assert found.first.answers is not None and found.first.answers.total == 4
    assert found.answer_flips is not None and found.answer_flips.items == 4
    assert found.answer_flips.right == found.first.answers.right
    assert compare(SAMPLE_MODEL, SAMPLE_MODEL, **SMALL).answer_flips is None


def test_tasks_of_the_harness_are_compared_question_by_question(bundles, tmp_path):
    pytest.importorskip("lm_eval", reason='lm-eval is not installed: pip install ".[eval]"')
    asked = slmkit.TaskRequest(("pick", "read"), folder=write_tasks(tmp_path))
    found = compare(bundles["int4"].path, bundles["int8"].path, tasks=asked, **SMALL)
    reports = [found.first.tasks, found.second.tasks]
    assert reports[0] is not None and reports[1] is not None
    right = [np.asarray(each.right["pick: acc"]) for each in reports if each is not None]
    assert set(found.task_flips) == {"pick: acc", "pick: acc_norm"}
    changed = found.task_flips["pick: acc"]
    assert changed.items == ROWS and changed.right == right[0].sum()
    assert changed.lost + changed.won == (right[0] != right[1]).sum()


def test_a_recipe_needs_its_model():
    with pytest.raises(UsageError, match="int4 is no folder") as caught:
        compare("int4", "int8", **SMALL)
    assert "--model" in caught.value.hint


def test_without_a_float_model_the_first_is_the_one_to_compare_with(tiny, tmp_path):
    bundle = slmkit.build(
        tiny("llama"), target="android", artifacts=["ort"], out=tmp_path, context=64, cache=False
    )
    found = compare(bundle.path, bundle.path, **SMALL)
    assert "ort shipped" in found.against
    assert found.second.divergence.kl == 0


def test_models_of_other_tokens_are_refused(tiny):
    with pytest.raises(UsageError, match="different tokens"):
        compare(tiny("llama"), SAMPLE_MODEL, **SMALL)
