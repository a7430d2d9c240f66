"""Integers between the weights: what an encoding keeps, and the ranges that calibration chooses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slmkit_onnx.hexagon.calibrate.calibration import calibration_runs
from slmkit_onnx.hexagon.calibrate.histogram import BINS_PER_SIDE, METHODS, Histogram
from slmkit_onnx.hexagon.lowering.encodings import LIMITS, MIN_WIDTH, asymmetric, symmetric

NUMBERS = st.floats(-1000, 1000, width=32)


@given(NUMBERS, NUMBERS, st.sampled_from(["uint8", "uint16"]), st.data())
def test_numbers_of_the_range_survive_to_half_a_step(one, other, dtype, data):
    low, high = sorted((one, other))
    encoding = asymmetric((low, high), dtype)
    ends = min(low, 0.0) + 0.0, max(high, 0.0) + 0.0  # no -0.0: it would be beyond 0.0
    value = np.float32(data.draw(st.floats(*ends, width=32)))
    back = encoding.dequantize(encoding.quantize(np.array([value])))[0]
    assert abs(back - value) <= encoding.scale * 1.01 + 1e-6 * abs(value)
    assert encoding.dequantize(encoding.quantize(np.zeros(1, np.float32)))[0] == 0


@given(NUMBERS, NUMBERS, st.sampled_from(["int16", "uint8"]))
def test_a_symmetric_encoding_has_zero_in_the_middle_and_covers_both_ends(one, other, dtype):
    low, high = sorted((one, other))
    encoding = symmetric((low, high), dtype)
    least, most = LIMITS[dtype]
    assert encoding.zero_point == (least + most + 1) // 2
    ends = encoding.dequantize(encoding.quantize(np.array([low, high], np.float32)))
    assert np.abs(ends - [low, high]).max() <= encoding.scale


@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(-1e6, 1e6, width=32)))
def test_beyond_the_range_integers_saturate(values):
    encoding = asymmetric((-1.0, 1.0))
    integers = encoding.quantize(values).astype(int)
    least, most = LIMITS["uint16"]
    assert ((integers >= least) & (integers <= most)).all()
    assert (np.diff(integers[np.argsort(values, kind="stable")]) >= 0).all()


def test_a_value_that_is_always_zero_still_has_a_scale():
    assert asymmetric((0.0, 0.0)).scale == pytest.approx(MIN_WIDTH / 65535)


@given(
    st.lists(
        arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e5, 1e5, width=32)),
        min_size=1,
        max_size=6,
    )
)
def test_a_histogram_counts_every_number_however_far_its_limit_must_grow(pieces):
    histogram = Histogram(with_bins=True)
    for piece in pieces:
        histogram.add(piece)
    whole = np.concatenate(pieces)
    assert histogram.counts.sum() == len(whole)
    assert (histogram.low, histogram.high) == (min(0, whole.min()), max(0, whole.max()))
    width = histogram.limit / BINS_PER_SIDE
    for share in (0.25, 0.5, 0.75):  # a histogram's quantile lies within a bin of the numbers'
        bin_number = np.searchsorted(np.cumsum(histogram.counts), share * len(whole))
        at = histogram.bin_centers()[bin_number]
        assert abs(at - np.quantile(whole, share, method="inverted_cdf")) <= 1.01 * width


@pytest.mark.parametrize("method", METHODS)
def test_every_method_stays_within_what_was_seen(method):
    histogram = Histogram(with_bins=True)
    histogram.add(np.random.default_rng(1).normal(size=10_000).astype(np.float32))
    low, high = METHODS[method](histogram)
    assert histogram.low <= low < -1 and 1 < high <= histogram.high


def test_numbers_are_counted_a_block_at_a_time(monkeypatch):
    values = np.random.default_rng(3).normal(size=(7, 11, 13)).astype(np.float32)
    whole, blocks = Histogram(with_bins=True), Histogram(with_bins=True)
    whole.add(values)
    monkeypatch.setattr("slmkit_onnx.hexagon.calibrate.histogram.BLOCK", 10)
    blocks.add(values)
    assert blocks.counts.sum() == values.size
    np.testing.assert_array_equal(blocks.counts, whole.counts)


def test_percentile_leaves_a_lone_outlier_out_and_minmax_keeps_it():
    histogram = Histogram(with_bins=True)
    histogram.add(np.random.default_rng(1).uniform(-1, 1, 400_000).astype(np.float32))
    histogram.add(np.array([50], np.float32))
    assert METHODS["minmax"](histogram)[1] == 50
    assert METHODS["percentile"](histogram)[1] < 1.1


def test_mse_clips_only_where_rounding_would_cost_more():
    """With 65536 levels a lone outlier of 50 costs more when clipped than finer steps gain."""
    histogram = Histogram(with_bins=True)
    histogram.add(np.random.default_rng(1).uniform(-1, 1, 400_000).astype(np.float32))
    histogram.add(np.array([50], np.float32))
    assert METHODS["mse"](histogram)[1] > 45


def test_calibration_runs_are_full_and_begin_all_over_the_texts():
    texts = [list(range(start, start + 30)) for start in range(0, 3000, 100)]
    runs = calibration_runs(texts, 50, 400)
    assert [len(run) for run in runs] == [50] * 8
    assert all(run[0] % 100 == 0 for run in runs)  # a run begins where a text does
    assert runs[-1][0] > 2000
    (short,) = calibration_runs([[1, 2, 3]], 8, 100)
    assert short.tolist() == [1, 2, 3, 1, 2, 3, 1, 2]
    runs = calibration_runs([range(1000)], 10, 50)
    assert [run[0] for run in runs] == [0, 247, 495, 742, 990]
