"""The harness's own model for transformers answers as ours does on the float reference."""

from __future__ import annotations

import gc
import warnings

import pytest

from harness_tasks import rows
from slmkit.checkpoint.folder import SAMPLE_MODEL
from slmkit.inference.load import load
from slmkit.system.progress import Silent

pytest.importorskip("torch", reason="needs the extra crosscheck")
pytest.importorskip("transformers", reason="needs the extra crosscheck")
pytest.importorskip("lm_eval", reason="needs the extra eval")

pytestmark = pytest.mark.crosscheck
CONTEXT = 96  # some requests are longer
LOG = 1e-3  # of log-probabilities down to -1200, in float32; measured: 5e-5
ANSWER = {"until": ["}"], "max_gen_toks": 48}


@pytest.fixture(scope="module")
def models():
    """Ours and theirs, of the sample model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lm_eval.models.huggingface import HFLM

        from slmkit.harness.model import RunnerModel

        session = load(SAMPLE_MODEL)
        session.runner.context_length = CONTEXT
        ours = RunnerModel(session.runner, session.tokenizer, session.chunk, "home", Silent())
        path = str(SAMPLE_MODEL)
        theirs = HFLM(path, device="cpu", dtype="float32", max_length=CONTEXT, batch_size=1)
        yield ours, theirs
        gc.collect()


def both(models, kind, requests):
    from lm_eval.api.instance import Instance

    asked = [Instance(kind, {}, request, 0) for request in requests]
    return [getattr(each, kind)(asked, disable_tqdm=True) for each in models]


def test_log_likelihoods_are_theirs_with_and_without_context_and_beyond_it(models):
    pairs = [
        (row["prompt"] + space, each)
        for row in rows()
        for each in row["choices"]
        for space in ("", " ")
    ]
    pairs += [("", "turn on"), (rows()[0]["prompt"] * 12, " lights off")]
    ours, theirs = both(models, "loglikelihood", pairs)
    assert [each[0] for each in ours] == pytest.approx([each[0] for each in theirs], abs=LOG)
    assert [each[1] for each in ours] == [each[1] for each in theirs]


def test_texts_are_read_in_the_same_windows(models):
    texts = [" ".join(row["prompt"] + row["answer"] for row in rows()), "turn on the light"]
    ours, theirs = both(models, "loglikelihood_rolling", [(text,) for text in texts])
    assert ours == pytest.approx(theirs, abs=LOG)


def test_chat_templates_and_answers_are_theirs(models):
    prompts = [[{"role": "user", "content": row["prompt"]}] for row in rows()]
    begun = [[*each, {"role": "assistant", "content": '{"intent'}] for each in prompts]
    ours, theirs = (
        [each.apply_chat_template(one) for one in prompts]
        + [each.apply_chat_template(one, add_generation_prompt=False) for one in begun]
        for each in models
    )
    assert ours == theirs
    texts = [*ours, *(row["prompt"] for row in rows()), rows()[0]["prompt"] * 10]
    ours, theirs = both(models, "generate_until", [(text, dict(ANSWER)) for text in texts])
    assert ours == theirs
    assert any(each.startswith('{"intent"') for each in ours)
