"""Buffers of a kernel beside those of its function: what either of them changed is compared."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.snr import EXACT_DB
from slmkit_mlc.verify import kernels
from slmkit_mlc.verify.kernels import Comparison


def compared(before, expected, got):
    found = Comparison()
    found.add([before], [expected], [got])
    assert found.calls == 1
    return found.worst_db


def test_only_what_changed_counts():
    before = np.full(1000, 5, np.float32)
    expected, got = before.copy(), before.copy()
    assert compared(before, expected, got) == EXACT_DB
    expected[3], got[3] = 1, 1.1  # 20 dB, beside 999 numbers that are equal
    assert compared(before, expected, got) == pytest.approx(20, abs=0.1)
    assert compared(before, before, got) < 3  # the kernel wrote where the function does not
    assert compared(before, expected, before) < 3  # and left out what it writes


def test_a_number_that_is_none_is_a_difference_unless_it_was_there():
    before = np.array([np.nan, 1], np.float32)
    assert compared(before, before.copy(), before.copy()) == EXACT_DB
    assert compared(before, before, np.array([np.nan, np.nan], np.float32)) == -np.inf


@given(st.integers(0, 40), st.integers(1, 9), st.integers(0, 39), st.sampled_from("fbd"))
def test_bytes_are_compared_block_by_block(length, block, place, kind):
    one = np.random.default_rng(length).standard_normal(length).astype(kind)
    other = one.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "BLOCK", block)
        assert kernels._equal_bytes(one, other)
        if length:
            other[place % length] += 1
            assert not kernels._equal_bytes(one, other)
