"""Outlier channels: which linears have them, which channels they are, what rounding loses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from artifacts import SCHEMES
from slmkit.activations.observe import Activations
from slmkit.activations.outliers import COUNT, SHARE, outlier_channels, outlier_counts
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.interpreters.kernels import round_to_int8
from slmkit.recipe.scheme import Scheme

HEAD = "model.embed_tokens"


def schemes_of(model, scheme):
    return dict.fromkeys(model.multiplied | model.looked_up, Scheme(**SCHEMES[scheme]))


@pytest.mark.parametrize(
    ("row", "scheme", "has_outliers"),
    [
        ("llama-tied", "int8-per-channel", True),
        ("llama-tied", "int4-per-channel", True),
        ("llama-tied", "int4-g32", False),  # a column's groups have other scales
        ("llama-tied", "float16", False),
        ("llama-tied", "lut4-g8", False),
        ("llama", "int8-per-channel", False),  # SmoothQuant evens the head's input out
    ],
)
def test_tied_heads_whose_rows_have_one_scale_have_them(tiny, row, scheme, has_outliers):
    model = open_checkpoint(tiny(row)).model
    width = model.shapes[HEAD][1]
    expected = {HEAD: min(COUNT, width // SHARE)} if has_outliers else {}
    assert outlier_counts(model, schemes_of(model, scheme)) == expected


def test_they_are_the_largest_channels_on_calibration_text(tiny):
    model = open_checkpoint(tiny("llama-tied")).model
    schemes, width = schemes_of(model, "int8-per-channel"), model.shapes[HEAD][1]
    sizes = np.random.default_rng(0).permutation(width).astype(np.float32)
    found = outlier_channels(model, schemes, Activations(1, inputs={HEAD: sizes}))[HEAD]
    assert list(found) == sorted(found)
    assert set(found) == set(np.flatnonzero(sizes >= width - len(found)).tolist())
    unread = outlier_channels(model, schemes, None)
    assert unread == {HEAD: tuple(range(len(found)))}


@given(
    x=arrays.arrays(np.float32, (3, 12), elements=st.floats(-100, 100, width=32)),
    outliers=st.sets(st.integers(0, 11), min_size=1, max_size=4),
)
def test_other_channels_are_rounded_as_if_the_outliers_were_not_there(x, outliers):
    columns = sorted(outliers)
    rest = np.delete(x, columns, axis=1)
    found = round_to_int8(x, columns)
    np.testing.assert_array_equal(np.delete(found, columns, axis=1), round_to_int8(rest))
    np.testing.assert_array_equal(found[:, columns], round_to_int8(x[:, columns]))
