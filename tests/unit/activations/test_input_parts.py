"""Parts of a linear's input: which linears have them, how many, what rounding then loses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from artifacts import SCHEMES
from slmkit.activations.input_parts import LEAST, MOST, MULTIPLE, input_parts
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.interpreters.kernels import round_to_int8
from slmkit.recipe.scheme import Scheme


def parts_of(folder, scheme):
    model = open_checkpoint(folder).model
    named = dict.fromkeys(model.multiplied | model.looked_up, Scheme(**SCHEMES[scheme]))
    return model, input_parts(model, named)


@pytest.mark.parametrize("row", ["llama", "phi3", "gemma2", "granite-hybrid"])
def test_down_projections_have_them(tiny, row, monkeypatch):
    monkeypatch.setattr("slmkit.activations.input_parts.LEAST", 32)
    model, found = parts_of(tiny(row), "int4-g32")
    assert any("down_proj" in name or "output_linear" in name for name in found)
    for name, parts in found.items():
        width = model.shapes[name][1]
        assert 1 < parts <= MOST and width % (parts * MULTIPLE) == 0 and width // parts >= 32


def test_no_narrow_input_has_them(tiny):
    assert not parts_of(tiny("llama"), "int4-g32")[1]


def test_float_codes_have_none(tiny, monkeypatch):
    monkeypatch.setattr("slmkit.activations.input_parts.LEAST", 32)
    assert not parts_of(tiny("llama"), "float16")[1]
    assert parts_of(tiny("llama"), "lut4-g8")[1]  # a palette's rows are read the same way


@given(
    x=arrays.arrays(np.float32, (3, 12), elements=st.floats(-9, 9, width=16)),
    parts=st.sampled_from([1, 2, 3, 4, 6]),
)
def test_each_part_is_rounded_as_if_it_were_alone(x, parts):
    width = 12 // parts
    expected = [round_to_int8(x[:, at : at + width]) for at in range(0, 12, width)]
    np.testing.assert_array_equal(round_to_int8(x, (), parts), np.concatenate(expected, axis=1))


def test_a_heavy_tailed_input_loses_less():
    x = np.random.default_rng(0).standard_t(3, (64, 2 * LEAST)).astype(np.float32)
    lost = [np.square(round_to_int8(x, (), parts) - x).sum() for parts in (1, 2, 4)]
    assert lost[0] > 1.2 * lost[1] > 1.4 * lost[2]
