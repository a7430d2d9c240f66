"""McNemar's exact test against fractions, and against published numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.evaluation.flips import flips, mcnemar


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_p_value_is_twice_the_tail_of_fair_coins(lost, won):
    total, few = lost + won, min(lost, won)
    tail = Fraction(sum(math.comb(total, k) for k in range(few + 1)), 2**total)
    assert mcnemar(lost, won) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-9)


def test_known_values():
    assert mcnemar(0, 0) == 1
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(1, 9) == pytest.approx(2 * 11 / 1024)
    assert mcnemar(50_000, 51_000) == pytest.approx(0.00166, rel=0.01)  # normal: z = 3.147 - 0.003


def test_right_and_wrong_answers_are_counted_in_pairs():
    first = np.asarray([True, True, True, False, False, True])
    second = np.asarray([True, False, False, True, False, True])
    found = flips(first, second)
    assert (found.items, found.right, found.lost, found.won) == (6, 4, 2, 1)
    assert found.share == 0.5 and found.p_value == 1
