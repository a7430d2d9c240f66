"""The metrics against their textbook formulas; bounds; ties."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter
from rich.console import Console

from slmkit.backend.declaration import EVERY_ERROR, ErrorKind
from slmkit.backend.interface import Mode
from slmkit.cli.tables.parity import parity_note, parity_table
from slmkit.parity.golden import Golden, outputs_of
from slmkit.parity.golden_file import load_golden, save_golden
from slmkit.parity.metrics import Comparison, broken, judge, measure, to_json
from slmkit.recipe.bounds import Bound

KINDS = {"float16": ErrorKind("half", {}), "lowering": EVERY_ERROR["lowering"]}
LOGITS = arrays(np.float32, (6, 10), elements=st.floats(-50, 50, width=32))


def measured(expected, got, spans=(slice(0, 6),)):
    return measure(outputs_of([expected]), outputs_of([got]), list(spans))


def softmax(logits):
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


@given(LOGITS, LOGITS)
def test_metrics_are_the_textbook_formulas(expected, got):
    found = measured(expected, got)
    p, q = softmax(expected), softmax(got)
    kl = np.where(p > 0, p * np.log(np.maximum(p, 1e-300) / np.maximum(q, 1e-300)), 0).sum(axis=1)
    assert found.kl == pytest.approx(max(0, kl.mean()), abs=1e-4, rel=1e-4)
    assert found.max_abs == pytest.approx(np.abs(expected - got).max())
    noise = np.square(expected.astype(np.float64) - got).sum()
    signal = np.square(expected.astype(np.float64)).sum()
    if noise > 0 and signal > 0:
        assert found.snr_db == pytest.approx(10 * np.log10(signal / noise), abs=1e-3)


@given(LOGITS)
def test_equal_logits_are_perfect(logits):
    found = measured(logits, logits)
    assert (found.max_abs, found.top1, found.greedy) == (0, 1, 6)
    assert not broken(found, Bound(snr_db=200, max_kl=1e-6, top1=1))


def test_a_tie_within_rounding_is_agreement_and_beyond_it_is_not():
    expected = np.zeros((1, 4), np.float32)
    expected[0, 0], expected[0, 1] = 100, 100 - 0.005
    near, far = expected.copy(), expected.copy()
    near[0, 1] += 0.01
    far[0, 2] = 101
    assert measured(expected, near, ()).top1 == 1
    assert measured(expected, far, ()).top1 == 0


def test_greedy_counts_until_the_first_difference_of_each_sequence():
    expected = np.tile(np.arange(10, dtype=np.float32), (6, 1))
    got = expected.copy()
    got[1, 0] = 99
    found = measured(expected, got, (slice(0, 3), slice(3, 6)))
    assert (found.greedy, found.decoded) == (1 + 3, 6)


def judged(expected, got, texts=2, error="float16", bound=None):
    """A comparison of two sequences, four positions of the first and two of the second."""
    golden, mode = golden_of(expected, texts=texts), Mode("half", "a step", {"reference": error})
    bounds = {error: bound or Bound()}
    return judge("mlc", mode, "reference", "a runtime", outputs_of([got]), golden, KINDS, bounds)


def with_bad(bad, at=(4, 1)):
    """Logits, and the same with a bad one."""
    got = np.ones((6, 10), np.float32)
    got[at] = bad
    return np.ones((6, 10), np.float32), got


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_break_every_bound(bad):
    every = Bound(snr_db=1e-9, median_db=1e-9, max_kl=16, max_kl_p999=16, top1=1e-9)
    expected, got = with_bad(bad)
    line = judged(expected, got, bound=every)
    assert line.failures == (
        "the logits hold NaN or infinity at 1 of 6 positions, "
        "the first at position 0 of golden prompt 2",
        "snr_db is not a number",
        "kl is not a number",
        "kl_p999 is not a number",
    )
    assert line.metrics.median_db == 300  # of the positions that are finite
    assert line.metrics.top1 == pytest.approx(5 / 6, abs=1e-6)
    assert line.metrics.greedy == 3  # the first sequence's; the second begins with the bad one


def test_a_position_of_nan_is_the_worst_and_not_the_median():
    expected, got = with_bad(np.nan, at=np.s_[1:6, 3])
    line = judged(expected, got)
    assert np.isnan(line.metrics.median_db)
    assert line.metrics.top1 == pytest.approx(1 / 6, abs=1e-6)
    assert "at 5 of 6 positions, the first at position 1 of golden prompt 1" in line.failures[0]


def test_nan_fails_without_any_bound_and_on_either_side():
    expected, got = with_bad(np.nan)
    assert not judged(expected, got).passed
    (said,) = judged(got, expected).failures
    assert said.startswith("the logits of reference hold NaN or infinity at 1 of 6 positions")


def test_nan_at_a_random_prompt_fails_an_error_that_texts_judge():
    expected, got = with_bad(np.inf)
    line = judged(expected, got, texts=1)
    assert line.metrics.positions == 4 and line.metrics.kl == 0
    assert "the first at position 0 of golden prompt 2" in line.failures[0]


def test_infinity_in_a_column_that_a_bundle_does_not_keep_is_seen():
    _, got = with_bad(-np.inf)
    outputs = outputs_of([got], np.array([0, 2, 3]))
    assert np.isfinite(outputs.values).all()
    assert outputs.finite.tolist() == [True] * 4 + [False, True]


def test_numbers_that_are_not_finite_are_null_in_strict_json():
    line = judged(*with_bad(np.nan))
    text = json.dumps(to_json(line), allow_nan=False)
    values = json.loads(text)["metrics"]
    assert [name for name, value in values.items() if value is None] == [
        "snr_db",
        "max_abs",
        "kl",
        "kl_p999",
    ]
    again = TypeAdapter(Comparison).validate_json(text)
    assert np.isnan(again.metrics.kl) and again.failures == line.failures
    assert json.dumps(to_json(again)) == text


def test_the_table_says_nan_and_fail():
    shown = drawn(parity_table([judged(*with_bad(np.nan))]))
    assert "NaN" in shown and "FAIL" in shown and "300" not in shown


def test_random_ids_judge_lowering_alone():
    expected = np.eye(6, 10, dtype=np.float32) * 9
    got = expected.copy()
    got[4:] = -got[4:]  # the second prompt
    bound = Bound(snr_db=100, max_kl=1e-3, top1=1)
    assert judged(expected, got, texts=1, bound=bound).passed
    lowering = judged(expected, got, texts=1, error="lowering", bound=bound)
    assert (lowering.metrics.positions, len(lowering.failures)) == (6, 3)
    note = parity_note([lowering, judged(expected, got, texts=1)])
    assert "6 (lowering) and 4 (texts: all others) positions" in note


def test_kl_keeps_significant_digits():
    expected = np.random.default_rng(0).standard_normal((6, 10), dtype=np.float32)
    found = measured(expected, expected * np.float32(1.0003)).rounded()
    assert 1e-9 < found.kl < 1e-6
    assert found.kl == float(f"{found.kl:.3g}")
    assert found.kl <= found.kl_p999 < 1e-6


def test_the_rare_kl_sees_one_position_that_the_mean_hides():
    expected = np.tile(np.eye(1, 10, dtype=np.float32) * 9, (1000, 1))
    got = expected.copy()
    got[7] = 0
    found = measured(expected, got)
    assert found.kl_p999 > 900 * found.kl > 0
    assert broken(found, Bound(max_kl=0.1)) == ()
    assert "the rare KL" in broken(found, Bound(max_kl_p999=0.1))[0]


def test_each_broken_bound_has_its_sentence():
    expected = np.eye(4, dtype=np.float32)
    said = " ".join(broken(measured(expected, -expected, ()), Bound(snr_db=1e-9, max_kl=0, top1=1)))
    for part in ("SNR", "KL", "top-1"):
        assert part in said


def golden_of(logits, lengths=(4, 2), texts=1):
    sequences = np.split(np.arange(6), [lengths[0]])
    outputs = outputs_of(np.split(logits, [lengths[0]]))
    return Golden(("a", "b\n"), texts, tuple(sequences), (2, 1), outputs)


@given(LOGITS)
def test_a_golden_survives_the_round_trip(tmp_path_factory, logits):
    path = tmp_path_factory.mktemp("golden") / "golden.safetensors"
    golden = golden_of(logits)
    save_golden(golden, path)
    loaded = load_golden(path)
    assert (loaded.names, loaded.prompt_lengths) == (golden.names, golden.prompt_lengths)
    assert loaded.texts == golden.texts == 1
    assert [each.text for each in loaded.prompts()] == [True, False]
    for ours, theirs in zip(loaded.sequences, golden.sequences, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for part in ("columns", "values", "norm", "best"):
        np.testing.assert_array_equal(getattr(loaded.outputs, part), getattr(golden.outputs, part))


def test_a_reduced_golden_measures_nearly_the_same(monkeypatch):
    monkeypatch.setattr("slmkit.parity.golden.COLUMNS", 2000)
    random = np.random.default_rng(0)
    expected = random.standard_normal((6, 20_000), dtype=np.float32) * 3
    got = expected + random.standard_normal(expected.shape, dtype=np.float32) * np.float32(0.1)
    golden = golden_of(expected).reduced()
    assert golden.outputs.values.shape == (6, 2000)
    full = measured(expected, got)
    part = measure(golden.outputs, outputs_of([got], golden.outputs.columns), [slice(0, 6)])
    assert part.snr_db == pytest.approx(full.snr_db, abs=1)
    assert 0 < part.kl <= full.kl * 1.001  # what is not kept counts as one: a lower bound
    assert (part.top1, part.greedy) == (full.top1, full.greedy)


def test_decoded_positions_start_at_each_prompt_s_last_token():
    golden = golden_of(np.zeros((6, 10), np.float32))
    assert golden.decoded() == [slice(1, 4), slice(4, 6)]


def test_a_comparison_survives_json():
    found = measured(np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32) * 2, ())
    line = Comparison("ort", "exact", "reference", "lowering", "a runtime", found, ("why",))
    text = json.dumps(to_json(line))
    assert TypeAdapter(Comparison).validate_json(text) == line


def test_fewer_prompts_are_the_first_ones():
    golden = golden_of(np.arange(60, dtype=np.float32).reshape(6, 10))
    two = Golden(
        ("a", "b"),
        1,
        (np.arange(6), np.arange(6, 9)),
        (2, 1),
        outputs_of([np.ones((6, 10), np.float32), np.zeros((3, 10), np.float32)]),
    )
    assert golden.first(None) is golden
    first = two.first(1)
    assert (first.names, len(first.outputs.values), len(first.sequences)) == (("a",), 6, 1)
    assert first.outputs.values.min() == 1
    for texts in (first.judged(False), two.judged(False), two.first(2).judged(False)):
        assert (texts.names, texts.texts) == (("a",), 1)
    assert two.judged(True) is two
    assert replace(two, texts=0).judged(False).names == two.names  # nothing else to judge on


def test_a_step_is_judged_against_an_earlier_mode_by_its_own_bound():
    bounds = {"emulator": Bound(snr_db=50), "activations": Bound(snr_db=30)}
    kinds = {name: ErrorKind("a step", {}) for name in bounds}
    golden = golden_of(np.eye(6, 10, dtype=np.float32) * 9)
    mode = Mode("sm8650", "a step", {"qdq": "emulator", "reference": "activations"})
    near = outputs_of([golden.outputs.values * np.float32(1.01)])  # 40 dB
    step = judge("hexagon", mode, "qdq", "a runtime", near, golden, kinds, bounds)
    step_from_reference = judge(
        "hexagon", mode, "reference", "a runtime", near, golden, kinds, bounds
    )
    assert (step.error, step.against) == ("emulator", "qdq")
    assert "below 50 dB" in step.failures[0]
    assert step_from_reference.failures == ()


def test_the_table_of_a_whole_ladder_fits_80_columns():
    found = measured(np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32) * 2, ())
    found = replace(found, kl=1.23e-05, greedy=165, decoded=165)
    line = Comparison(
        "hexagon", "sm8750-binary", "sm8750", "reloaded", "a runtime", found, ("why",)
    )
    step = replace(line, mode="sm8650-layers", against="qdq-layers", error="emulator")
    shown = drawn(parity_table([line, step]))
    assert max(map(len, shown.splitlines())) <= 80
    for part in ("SNR", "median", "KL", "1.2e-5", "top-1", "100%", "emulator/qdq-layers"):
        assert part in shown


def drawn(table):
    file = io.StringIO()
    Console(file=file, width=200).print(table)
    return file.getvalue()
