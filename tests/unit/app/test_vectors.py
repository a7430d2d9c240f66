"""The vectors that Python, Kotlin and Swift share are what Python makes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from slmkit.app.cases import Cases
from slmkit.app.vectors import Vectors
from slmkit.checkpoint.folder import SAMPLE_MODEL

ROOT = Path(__file__).resolve().parents[3]
PLACE = ROOT / "sample_apps" / "vectors"
LOGITS = 1e-3  # of logits near 20 on another machine: float32 sums in another order


@pytest.fixture(scope="module")
def make():
    sys.path.insert(0, str(PLACE))
    import make_vectors

    return make_vectors


def kinds():
    return sorted(path.parent.name for path in PLACE.glob("*/vectors.json"))


@pytest.mark.parametrize("kind", [each for each in kinds() if each != "home"])
def test_the_vectors_of_a_tokenizer_are_made_again(kind, make, tmp_path):
    make.make_kind(kind, tmp_path)
    for name in ("chat.json", "tokens.json", "vectors.json"):
        assert (tmp_path / name).read_bytes() == (PLACE / kind / name).read_bytes()


def test_those_of_the_sample_model_are_made_again_with_its_answers(make, tmp_path):
    make.make_home(tmp_path)
    stored, made = (read(folder / "vectors.json", Vectors) for folder in (PLACE / "home", tmp_path))
    assert without_logits(made.model_dump()) == without_logits(stored.model_dump())
    assert logits(made.model_dump()) == pytest.approx(logits(stored.model_dump()), abs=LOGITS)
    stored, made = (read(folder / "cases.json", Cases) for folder in (PLACE / "home", tmp_path))
    assert without_logits(made.model_dump()) == without_logits(stored.model_dump())
    assert logits(made.model_dump()) == pytest.approx(logits(stored.model_dump()), abs=LOGITS)
    for name in ("chat.json", "tokens.json"):
        assert (tmp_path / name).read_bytes() == (PLACE / "home" / name).read_bytes()


def test_the_sample_models_answers_are_those_that_it_was_trained_for():
    answers = [each.answer for each in read(PLACE / "home" / "vectors.json", Vectors).greedy]
    assert json.loads(answers[0]) == {
        "intent": "light", "room": "kitchen", "state": "off", "time": "19:00"
    }  # fmt: skip
    assert len(answers) == 3


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_the_sample_models_tokenizer_lies_beside_its_vectors(name):
    assert (PLACE / "home" / name).read_bytes() == (SAMPLE_MODEL / name).read_bytes()


def test_every_kind_of_tokenizer_has_vectors(make):
    assert set(kinds()) == {"home", *make.KINDS}


def read(path, kind):
    return kind.model_validate_json(path.read_text(encoding="utf-8"))


def steps(values):
    return [step for each in values.get("greedy", values.get("cases")) for step in each["steps"]]


def logits(values):
    """All logits of a file's steps, and what is computed from them."""
    found = [logit for step in steps(values) for _, logit in step["top"]]
    return found + [step["norm"] for step in steps(values) if "norm" in step]


def without_logits(values):
    """The ids of the few best in any order: near ones may change places."""
    for step in steps(values):
        step["top"] = sorted(number for number, _ in step["top"])
        step.pop("norm", None)
    return values
