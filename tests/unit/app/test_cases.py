"""Golden cases are the reference's: its best ids with their logits, just before each token."""

from __future__ import annotations

import numpy as np
import pytest

from slmkit.app.cases import BEST, cases_of
from slmkit.parity.golden import COLUMNS, Golden, log_norms, outputs_of


@pytest.fixture
def golden():
    """Two texts and random ids over a vocabulary of which a bundle keeps some columns."""
    random = np.random.default_rng(3)
    lengths, prompts = (9, 6, 5), (4, 6, 2)
    logits = [random.standard_normal((each, COLUMNS + 900), np.float32) * 5 for each in lengths]
    sequences = tuple(random.integers(0, COLUMNS, each) for each in lengths)
    found = Golden(("a", "b", "random 1"), 2, sequences, prompts, outputs_of(logits))
    return found.reduced(), logits


def test_a_case_has_the_prompt_and_a_step_for_each_token_behind_it(golden):
    found, _ = golden
    cases = cases_of(found).cases
    assert [case.name for case in cases] == ["a", "b"]  # no user types random ids
    for case, ids, length in zip(cases, found.sequences, found.prompt_lengths, strict=False):
        assert case.prompt_ids == tuple(ids[:length])
        assert [step.id for step in case.steps[:-1]] == ids[length:].tolist()


def test_steps_have_the_best_of_the_whole_vocabulary(golden):
    found, logits = golden
    for case, rows, length in zip(
        cases_of(found).cases, logits, found.prompt_lengths, strict=False
    ):
        for step, row in zip(case.steps, rows[length - 1 :], strict=True):
            best = np.argsort(-row, kind="stable")[:BEST]
            assert [number for number, _ in step.top] == best.tolist()
            assert [logit for _, logit in step.top] == pytest.approx(row[best].tolist(), abs=1e-5)
            assert step.norm == pytest.approx(log_norms(row[None])[0], abs=1e-5)
        assert case.steps[-1].id == case.steps[-1].top[0][0]
