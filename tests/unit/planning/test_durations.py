"""How long a build will take: by rule, then by what it took."""

from __future__ import annotations

import pytest

from slmkit.planning.durations import LEAST, RULE, Durations, expected_stages
from slmkit.planning.plan import make_plan
from slmkit.system.ledger import StageCost
from tiny_models import ort_request


def test_a_rule_serves_until_a_build_has_told(tmp_path):
    found = Durations(tmp_path)
    labels = ["emit ort", "run ort, exact"]
    assert found.of(labels, 10**9) == {"emit ort": RULE["emit"], "run ort, exact": RULE["run"]}
    assert found.of(labels, 10)["emit ort"] == LEAST
    costs = [StageCost("emit ort", 0, 40.0, None), StageCost("emit ort", 5, 20.0, None)]
    found.remember(costs, 5 * 10**8)
    again = Durations(tmp_path).of(labels, 10**9)
    assert again == {"emit ort": pytest.approx(120), "run ort, exact": RULE["run"]}


def test_a_stage_out_of_the_cache_does_not_count(tmp_path):
    found = Durations(tmp_path)
    found.remember([StageCost("emit ort", 0, 200.0, None)], 10**9)
    found.remember([StageCost("emit ort", 0, 0.2, None)], 10**9)
    assert Durations(tmp_path).of(["emit ort"], 10**9) == {"emit ort": 200}
    found.remember([StageCost("emit ort", 0, 90.0, None)], 10**9)  # a quicker machine, or version
    assert Durations(tmp_path).of(["emit ort"], 10**9) == {"emit ort": 90}


@pytest.mark.parametrize("text", ["", "[]", '{"a": "b"}', "\x00", '{"emit ort": [1]}'])
def test_a_damaged_file_is_as_none(tmp_path, text):
    (tmp_path / "durations.json").write_text(text)
    assert Durations(tmp_path).of(["emit ort"], 10**9) == {"emit ort": RULE["emit"]}


def test_a_cache_that_cannot_be_written_stays_as_it_is(tmp_path):
    found = Durations(tmp_path / "missing")
    found.remember([StageCost("emit ort", 0, 1.0, None)], 10**9)
    assert not (tmp_path / "missing").exists()


def test_stages_that_are_known_before_work_begins(tiny, tmp_path):
    plan = make_plan(ort_request(tiny("llama"), "int4", tmp_path / "out"))
    found = expected_stages(plan)
    assert len(set(found)) == len(found)
    assert {"measure inputs", "calibrate", "all codes on held-out text"} <= set(found)
    assert {"emit ort", "prompts of ort"} <= set(found)
    plain = expected_stages(make_plan(ort_request(tiny("llama"), "int8", tmp_path / "out")))
    assert not {"measure inputs", "calibrate"} & set(plain)
