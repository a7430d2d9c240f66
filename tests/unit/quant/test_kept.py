"""Codes that are kept in another form of scales: integers stay, scales move as little as can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmkit.quant.codes import Codes
from slmkit.quant.kept import is_form, scales_in
from slmkit.quant.quantize import packed_codes
from slmkit.recipe.scheme import Scheme

OWN = Scheme(encoding="group-wise", bits=4, group_size=32, scales="float16", method="imported")
FREE = OWN.model_copy(update={"scales": "free"})
LEVELS = OWN.model_copy(update={"scales": "two-level"})


def codes_of(seed, rows=6, groups=4, spread=0.3):
    random = np.random.default_rng(seed)
    scales = 0.01 * np.exp(spread * random.standard_normal((rows, groups)))
    integers = random.integers(0, 16, (rows, groups * 32), np.uint8)
    held = scales.astype(np.float16).astype(np.float32)
    return Codes(OWN, groups * 32, integers, held, np.full(scales.shape, 8, np.uint8))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_rounded_scales_are_near_and_of_their_form(seed):
    codes = codes_of(seed)
    free = scales_in(codes, FREE)["scales"]
    mantissa, _ = np.frexp(free)
    assert (mantissa * 256 == np.rint(mantissa * 256)).all()
    assert (np.abs(free / codes.scales - 1) <= 2**-8).all()
    parts = scales_in(codes, LEVELS)
    channel, multipliers = parts["channel_scales"], parts["multipliers"]
    mantissa, _ = np.frexp(channel)
    assert (mantissa * 16 == np.rint(mantissa * 16)).all()
    assert multipliers.min() >= 1 and (multipliers.max(axis=1) == 16).all()
    moved = np.abs(channel[:, None] * multipliers / codes.scales - 1)
    assert moved.max() < 0.2


def test_two_levels_cost_about_what_was_measured_on_real_weights():
    codes = codes_of(1, rows=400, groups=8)
    parts = scales_in(codes, LEVELS)
    scales = parts["channel_scales"][:, None] * parts["multipliers"]
    weights = codes.codes.reshape(400, 8, 32) - 8.0
    noise = np.square(weights * (scales - codes.scales)[..., None]).sum()
    assert 0.01 < (noise / np.square(weights * codes.scales[..., None]).sum()) ** 0.5 < 0.035


def test_the_same_form_is_exact():
    codes = codes_of(2)
    arrays = packed_codes("w", codes, OWN)
    np.testing.assert_array_equal(arrays["w.scales"].astype(np.float32), codes.scales)
    assert set(packed_codes("w", codes, LEVELS)) == {"w.codes", "w.channel_scales", "w.multipliers"}


@pytest.mark.parametrize("change", [{"bits": 8}, {"group_size": 64}, {"symmetric": False}])
def test_a_scheme_of_other_codes_is_none_of_the_forms(change):
    other = FREE.model_copy(update=change)
    assert not is_form(OWN, other)
    with pytest.raises(ValueError, match="do not become"):
        scales_in(codes_of(3), other)
