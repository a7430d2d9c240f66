"""Factors that tokens are divided by and multiplied with: nothing is lost in float16."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slmkit.backend.partition import Part
from slmkit_onnx.data import DataFile
from slmkit_onnx.hexagon.lowering.per_token_scale import INVERSES, SCALES, power_of_two_scale
from slmkit_onnx.hexagon.lowering.static_graph import StaticGraphs
from slmkit_onnx.sessions import cpu_session

TOKENS, WIDTH = 4, 5


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """The graph of the factors of four tokens."""
    folder, data = tmp_path_factory.mktemp("factors"), DataFile("weights.data")
    graphs = StaticGraphs(data, [Part("model", 0, 1)], None)
    x = graphs.input("x", (1, TOKENS, WIDTH), None)
    for value, name in zip(
        power_of_two_scale(graphs, x, "token"), ("factor", "inverse"), strict=True
    ):
        graphs.float_output(value, name)
    data.write(folder / data.name, lambda done, total: None)
    return cpu_session(graphs.graph.model("factors").SerializeToString(), folder)


def test_every_factor_and_its_inverse_are_normal_numbers_of_float16():
    for numbers in (SCALES, INVERSES):
        np.testing.assert_array_equal(numbers.astype(np.float16), numbers)
        assert numbers.min() >= np.finfo(np.float16).smallest_normal
    np.testing.assert_array_equal(np.frexp(SCALES)[0], 0.5)  # powers of two
    np.testing.assert_array_equal(SCALES[1:] / SCALES[:-1], 2)
    np.testing.assert_array_equal(SCALES * INVERSES, 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(exponents=st.lists(st.floats(-30, 15.9), min_size=TOKENS, max_size=TOKENS))
def test_a_token_fills_half_of_its_factor_or_more_and_never_all(session, exponents):
    """Unless it lies outside of all factors: then it has the nearest, and is not lost."""
    most = np.exp2(np.array(exponents, np.float32))
    x = np.outer(most, [0.5, -1, 0.25, 0, 1e-3]).astype(np.float32)[None]
    factor, inverse = (each[0, :, 0] for each in session.run(["factor", "inverse"], {"x": x}))
    np.testing.assert_array_equal(factor * inverse, 1)
    within = (most > SCALES[0]) & (most < 0.98 * SCALES[-1])
    assert (most[within] <= factor[within]).all()
    assert (most[within] >= 0.49 * factor[within]).all()
    assert (factor[most <= 0.98 * SCALES[0]] == SCALES[0]).all()
    assert (factor[most >= SCALES[-1]] == SCALES[-1]).all()
