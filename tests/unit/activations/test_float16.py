"""The residual stream's scale, and places that would still overflow float16."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from observed import observed, of_rows
from outlier_twins import OVER_FLOAT16, PEAK, outlier_twin
from slmkit.activations.float16 import LARGEST, MARGIN, overflows, stream_factors, stream_scale
from slmkit.activations.observe import Activations
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.checkpoint.scaled_weights import Factors
from slmkit.models.spec import FLOAT16_LEAST


def floats(values):
    return np.array(values, np.float32)


def with_stream(*largest):
    return Activations(1, stream={str(at): floats([each]) for at, each in enumerate(largest)})


@given(st.floats(0, 2.0**100, width=32, allow_subnormal=False))
def test_a_scale_is_the_largest_power_of_two_with_room(largest):
    scale = stream_scale(with_stream(1.0, largest))
    assert np.log2(scale) == int(np.log2(scale)) and scale <= 1
    assert max(largest, 1) * MARGIN * scale <= LARGEST
    assert scale == 1 or max(largest, 1) * MARGIN * scale * 2 > LARGEST


def test_a_model_without_activations_is_not_scaled():
    assert stream_scale(Activations(0)) == 1
    assert stream_scale(with_stream(0.0)) == 1


@pytest.mark.parametrize("row", ["llama", "gemma3", "granite-hybrid-moe", "mamba2"])
def test_a_twin_that_overflows_is_scaled_and_one_that_does_not_is_not(tmp_path, row):
    small = open_checkpoint(outlier_twin(tmp_path / "small", row, PEAK))
    assert stream_scale(observed(small)) == 1
    large = open_checkpoint(outlier_twin(tmp_path / "large", row, OVER_FLOAT16))
    found = observed(large)
    scale = stream_scale(found)
    assert scale < 1
    assert max(size.max() for size in found.stream.values()) * MARGIN * scale < LARGEST
    assert list(overflows(found, {})) != []
    assert list(overflows(found, stream_factors(large.model, scale))) == []


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ("llama", ("o_proj", "down_proj")),
        ("gemma2", ("post_attention_layernorm", "post_feedforward_layernorm")),
        ("mamba", ("out_proj",)),
    ],
)
def test_what_is_added_to_the_stream_has_its_scale(tiny, row, names):
    model = open_checkpoint(tiny(row)).model
    factors = stream_factors(model, 1 / 4)
    assert {name.rpartition(".")[2] for name in factors} == set(names)
    assert len(factors) == model.spec.layers * len(names)
    for each in factors.values():
        assert each.inputs is None and of_rows(each).tolist() == [1 / 4] * 64
    assert stream_factors(model, 1.0) == {}


def test_places_that_overflow_are_named_with_their_size():
    outputs = {"up": floats([1, 70_000]), "norm": floats([65_504, 5])}
    peaks = {"down": floats([100_000, 1]), "head": floats([1, 1])}
    found = Activations(1, outputs=outputs, peaks=peaks)
    assert list(overflows(found, {})) == [
        "the output of up reaches 70000",
        "the input of down reaches 100000",
    ]


def test_factors_count_where_a_value_is_made_and_read():
    outputs, peaks = {"up": floats([60_000, 70_000])}, {"down": floats([1, 100_000])}
    found = Activations(1, outputs=outputs, peaks=peaks)
    smaller, larger = floats([2, 1 / 2]), floats([1, 2])
    factors = {"up": Factors(smaller), "down": Factors(None, larger)}
    assert list(overflows(found, factors)) == ["the output of up reaches 120000"]


def test_eps_shrinks_with_the_stream_but_stays_a_number_of_float16(tiny):
    spec = open_checkpoint(tiny("llama")).spec
    assert spec.stream_eps == spec.eps == 1e-5
    assert spec.scaled(1 / 4).stream_eps == 1e-5 / 16
    assert spec.scaled(1 / 64).stream_eps == FLOAT16_LEAST
