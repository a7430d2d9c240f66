"""Divergence: by hand, against the textbook formulas, the same in any pieces, honest about NaN."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slmkit.evaluation.divergence import compare, divergence, expected_of
from slmkit.evaluation.sources import against_answers, float_answers, side_by_side
from slmkit.evaluation.text import EvaluationText, Window

T, V = 7, 12
LOGITS = arrays(np.float32, (T, V), elements=st.floats(-30, 30, width=32))
IDS = arrays(np.int64, T, elements=st.integers(0, V - 1))
CUTS = st.lists(st.integers(0, T), max_size=4).map(lambda cuts: [0, *sorted(cuts), T])


def pieces(logits, cuts=(0, T)):
    return (logits[a:b] for a, b in itertools.pairwise(cuts) if b > a)


def log_softmax(logits):
    doubles = logits.astype(np.float64)
    most = doubles.max(axis=1, keepdims=True)
    return doubles - most - np.log(np.exp(doubles - most).sum(axis=1, keepdims=True))


def measured(expected, got, following, keep=None):
    answers = expected_of(expected, following, keep)
    return divergence(compare(answers, got, following), answers.values.shape[1])


def test_two_tokens_by_hand():
    """The float model says 3/4 and 1/4, the other 1/2 and 1/2, then both are sure."""
    expected = np.log(np.asarray([[3, 1], [1, 1e6]], np.float32))
    got = np.log(np.asarray([[1, 1.001], [1, 1e6]], np.float32))
    found = measured(expected, got, np.asarray([0, 1]))
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert found.kl == pytest.approx(kl / 2, rel=2e-3)
    assert found.kl_p999 == pytest.approx(kl, rel=2e-3)
    assert found.top1 == 0.5
    assert found.float_perplexity == pytest.approx(math.sqrt(4 / 3), rel=1e-5)
    assert found.perplexity == pytest.approx(math.sqrt(2), rel=1e-3)
    assert (found.flips.lost, found.flips.won, found.flips.p_value) == (1, 0, 1)
    assert (found.positions, found.columns) == (2, 2)


@given(LOGITS, LOGITS, IDS)
def test_the_measures_are_the_textbook_formulas(expected, got, following):
    found = measured(expected, got, following)
    p, q = log_softmax(expected), log_softmax(got)
    kl = (np.exp(p) * (p - q)).sum(axis=1)
    at = np.arange(T), following
    assert found.kl == pytest.approx(max(0, kl.mean()), abs=1e-9)
    assert found.kl_p999 == pytest.approx(max(0, kl.max()), abs=1e-9)
    assert found.perplexity == pytest.approx(math.exp(-q[at].mean()))
    assert found.float_perplexity == pytest.approx(math.exp(-p[at].mean()))
    assert found.top1 == (expected.argmax(axis=1) == got.argmax(axis=1)).mean()


@given(LOGITS, LOGITS, IDS, CUTS, CUTS, st.integers(0, T - 3))
def test_pieces_of_any_size_give_what_all_logits_at_once_give(
    expected, got, ids, cuts, others, middle
):
    text = EvaluationText((Window(ids[: middle + 1], middle // 2), Window(ids[middle + 1 :])))
    whole = side_by_side(pieces(expected), pieces(got), text)
    assert side_by_side(pieces(expected, cuts), pieces(got, others), text) == whole
    kept = float_answers(pieces(expected, cuts), text, V)
    assert against_answers(kept, pieces(got, others), text) == whole


@given(LOGITS, LOGITS, IDS, st.integers(1, V))
def test_of_kept_columns_kl_is_a_lower_bound_and_all_else_is_exact(expected, got, following, keep):
    exact = measured(expected, got, following)
    kept = measured(expected, got, following, keep)
    assert kept.kl <= exact.kl + 1e-5  # a rest below 1e-6 is left out
    assert kept.columns == keep
    assert kept.top1 == exact.top1 and kept.flips == exact.flips
    assert (kept.perplexity, kept.float_perplexity) == (exact.perplexity, exact.float_perplexity)


def test_the_kept_columns_are_the_largest_and_the_others_count_as_one():
    expected = np.log(np.asarray([[8, 1, 4, 3]], np.float32))
    got = np.log(np.asarray([[4, 4, 4, 4]], np.float32))
    answers = expected_of(expected, np.asarray([0]), 2)
    assert answers.columns is not None
    assert answers.columns.tolist() == [[0, 2]]
    found = divergence(compare(answers, got, np.asarray([0])), 2)
    lumped = 0.5 * math.log(0.5 / 0.25) + 0.25 * math.log(1) + 0.25 * math.log(0.25 / 0.5)
    assert found.kl == pytest.approx(lumped, rel=1e-6)


@given(LOGITS, IDS)
def test_equal_logits_have_no_divergence(logits, following):
    found = measured(logits, logits, following)
    assert (found.kl, found.kl_p999, found.top1) == (0, 0, 1)
    assert found.perplexity == found.float_perplexity and found.flips.share == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_no_number_is_never_a_kl_of_zero_or_an_agreement(bad, side):
    sides = [np.tile(np.arange(V, dtype=np.float32), (2, 1)) for _ in range(2)]
    sides[side][1, -1] = bad
    found = measured(sides[0], sides[1], np.asarray([V - 1, V - 1]))
    assert math.isnan(found.kl) and math.isnan(found.kl_p999)
    assert found.top1 == 0.5
    perplexities = found.float_perplexity, found.perplexity
    assert math.isnan(perplexities[side]) and not math.isnan(perplexities[1 - side])
    assert (found.flips.lost, found.flips.won) == ((0, 1), (1, 0))[side]


@given(LOGITS, LOGITS, LOGITS, IDS, st.integers(1, T - 1))
def test_an_artifact_that_read_a_part_is_judged_by_what_it_adds_there(
    expected, codes, artifact, following, count
):
    answers = expected_of(expected, following)
    by_codes = compare(answers, codes, following)
    spans = [slice(0, count)]
    part = divergence(by_codes.part(spans), V)
    whole = divergence(by_codes, V)
    own = divergence(compare(answers.part(spans), artifact[:count], following[:count]), V)
    found = own.on_whole(part, whole)
    assert found.kl == pytest.approx(max(0, whole.kl + own.kl - part.kl), abs=1e-9)
    assert 0 <= found.top1 <= 1
    assert found.kl_p999 >= max(own.kl_p999, whole.kl_p999) - 1e-12
    alike = part.on_whole(part, whole)  # an artifact that equals its codes
    assert alike.kl == pytest.approx(whole.kl, abs=1e-9)
    assert alike.top1 == pytest.approx(whole.top1)
    assert alike.perplexity == pytest.approx(whole.perplexity, rel=1e-6)


def test_an_artifact_of_no_numbers_stays_one():
    logits = np.zeros((T, V), np.float32)
    following = np.zeros(T, np.int64)
    codes = measured(logits, logits, following)
    broken = measured(logits, np.full_like(logits, np.nan), following)
    found = broken.on_whole(codes, codes)
    assert math.isnan(found.kl) and math.isnan(found.kl_p999) and math.isnan(found.perplexity)
    assert found.top1 == 0
