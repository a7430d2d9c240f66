"""The facts of Mamba from config.json, and its scan against the plain recurrence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.checkpoint.folder import open_checkpoint
from slmkit.errors import CheckpointError
from slmkit.interpreters.kernels import convolution, selective_scan
from slmkit.interpreters.recorder import summarize
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from slmkit.planning.memory import state_values
from tiny_models import tiny_config


def spec_of(architecture, **changes):
    return read_spec(Config(tiny_config(architecture, **changes), "config.json"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_groups": 2}, "n_groups is 2; only 1 is supported"),
        ({"time_step_limit": [0.0, 0.1]}, "time_step_limit"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"conv_kernel": 1}, "conv_kernel"),
    ],
)
def test_what_is_not_computed_is_refused(changes, said):
    with pytest.raises(CheckpointError, match=said):
        spec_of("mamba2", **changes)


@pytest.mark.parametrize(("architecture", "values"), [("mamba", 2816), ("mamba2", 2912)])
def test_states_have_one_size_whatever_the_context(architecture, values):
    model = summarize(spec_of(architecture))
    assert state_values(model, 16) == state_values(model, 4096) == values
    assert model.attention_layers == ()


def test_decays_are_read_as_they_are_meant(tiny):
    shards = open_checkpoint(tiny("mamba")).shards
    name = "backbone.layers.0.mixer.A_log"
    stored = shards.where[name].floats(name)
    assert stored.shape == (128, 8)
    np.testing.assert_array_equal(shards.vector(name), -np.exp(stored).reshape(-1))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(2, 5))
def test_a_convolution_in_two_chunks_is_that_of_the_whole(first, second, kernel):
    random = np.random.default_rng(first * 10 + second)
    x = random.standard_normal((first + second, 3)).astype(np.float32)
    weight = random.standard_normal((3, kernel)).astype(np.float32)
    whole = convolution(x, weight, {}, 0)
    states: dict[int, np.ndarray] = {}
    parts = [convolution(part, weight, states, 0) for part in (x[:first], x[first:])]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)
    padded = np.concatenate([np.zeros((kernel - 1, 3), np.float32), x])
    for channel in range(3):
        plain = np.convolve(padded[:, channel], weight[channel, ::-1], "valid")
        np.testing.assert_allclose(whole[:, channel], plain, atol=1e-5)


@given(st.integers(1, 9), st.integers(1, 9))
def test_a_scan_in_two_chunks_is_that_of_the_whole(first, second):
    random = np.random.default_rng(first * 10 + second)
    tokens = first + second
    x, step = random.standard_normal((tokens, 2, 3)), random.random((tokens, 2))
    b, c = random.standard_normal((2, tokens, 4))
    given_ = [each.astype(np.float32) for each in (x, step, b, c)]
    decay = -random.random((2, 4, 1)).astype(np.float32)

    def scanned(part, state):
        x, step, b, c = (each[part] for each in given_)
        return selective_scan(x, step, b, c, decay, state)

    whole, last = scanned(slice(None), None)
    start, state = scanned(slice(first), None)
    end, state = scanned(slice(first, None), state)
    np.testing.assert_allclose(np.concatenate([start, end]), whole, atol=1e-5)
    np.testing.assert_allclose(state, last, atol=1e-5)
