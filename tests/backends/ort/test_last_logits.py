"""A call computes the logits of its last token alone, unless it asks for more."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from artifacts import FLOAT32_FLOOR, emitted, ids_for, make_job, reference_of, snr_db
from slmkit.backend.interface import Prefilling
from slmkit.backend.registry import find_backend
from slmkit.interpreters.dataflow import dataflow
from slmkit_onnx.ort.contract import LOGITS_FROM
from slmkit_onnx.ort.elsewhere import open_engine
from slmkit_onnx.ort.writer import heads
from tiers import ROWS, SAYS_MOST, some
from tiny_models import TINY

EXACT = {"accuracy_level": 0}
PROMPT = 37  # tokens of which the last one answers


def opened(job, folder):
    artifact = emitted(job, folder)
    return artifact, find_backend("ort").open_runner(folder, artifact, "exact")


@pytest.mark.parametrize("architecture", some(TINY, "qwen2", SAYS_MOST, why=ROWS))
def test_a_prompt_is_answered_by_its_last_token(tiny, tmp_path, architecture):
    job = make_job("ort", tiny(architecture), tmp_path, "int8-g32", options=EXACT)
    artifact, runner = opened(job, tmp_path / "ort")
    ids, expected = ids_for(job)[:PROMPT], reference_of(job)[:PROMPT]
    assert isinstance(runner, Prefilling)
    assert snr_db(expected[-1], runner.prefill(ids)) > FLOAT32_FLOOR
    runner.reset()
    assert snr_db(expected, runner.feed(ids)) > FLOAT32_FLOOR
    names = [each.name for each in runner.session.get_overridable_initializers()]
    assert names == [artifact.facts["logits_from"]] == [LOGITS_FROM]
    last = [node for node in dataflow(job.spec).nodes if node.op == "linear"][-1]
    assert heads(job.model) == {last.name}


@pytest.mark.parametrize(("first", "rows"), [(None, 1), (-1, 1), (-3, 3), (0, 9), (7, 2)])
def test_the_first_token_that_answers_is_counted_from_either_end(tiny, tmp_path, first, rows):
    job = make_job("ort", tiny("qwen2"), tmp_path, "int8-g32", options=EXACT)
    _, runner = opened(job, tmp_path / "ort")
    got = runner._feed(ids_for(job)[:9], first)
    assert got.shape == (rows, job.spec.vocabulary)
    assert snr_db(reference_of(job)[9 - rows : 9], got) > FLOAT32_FLOOR


def test_all_tokens_answer_where_the_recipe_wants_it(tiny, tmp_path):
    options = {**EXACT, "logits": "all"}
    job = make_job("ort", tiny("qwen2"), tmp_path, "int8-g32", options=options)
    artifact, runner = opened(job, tmp_path / "ort")
    assert not runner.session.get_overridable_initializers()
    assert next(each.shape for each in artifact.outputs)[1] == "tokens"
    assert snr_db(reference_of(job)[:9], runner.feed(ids_for(job)[:9])) > FLOAT32_FLOOR
    runner.reset()
    assert snr_db(reference_of(job)[8], runner.prefill(ids_for(job)[:9])) > FLOAT32_FLOOR


def test_a_device_reads_prompts_alike(tiny, tmp_path):
    job = make_job("ort", tiny("qwen2"), tmp_path, "int8-g32", options=EXACT)
    artifact, _ = opened(job, tmp_path / "ort")
    engine = open_engine(tmp_path / "ort", asdict(artifact), 1)
    ids, expected = ids_for(job)[:PROMPT], reference_of(job)[:PROMPT]
    assert snr_db(expected[-1], engine.prefill(ids)) > FLOAT32_FLOOR
    engine.reset()
    assert snr_db(expected, engine.feed(ids)) > FLOAT32_FLOOR
