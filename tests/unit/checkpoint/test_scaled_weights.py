"""Weights with factors, read in every form in which weights are read."""

from __future__ import annotations

import numpy as np
import pytest

from slmkit.checkpoint.folder import open_checkpoint
from slmkit.checkpoint.scaled_weights import Factors, ScaledWeights

LAYER = "model.layers.0"
UP, NORM = f"{LAYER}.mlp.up_proj", f"{LAYER}.input_layernorm"  # (96, 64) and (64,)


@pytest.fixture
def shards(tiny):
    return open_checkpoint(tiny("llama-biases")).shards


def scaled(shards):
    """The weights with factors on one matrix and one norm, and the factors."""
    random = np.random.default_rng(0)
    outputs, inputs, gain = (random.random(size).astype(np.float32) for size in (96, 64, 64))
    factors = {UP: Factors(outputs, inputs), NORM: Factors(gain)}
    return ScaledWeights(shards, factors), outputs, inputs, gain


@pytest.mark.parametrize(
    "rows", [slice(None), slice(3, 70), np.array([5, 0, 95, 5])], ids=["all", "slice", "indices"]
)
def test_rows_have_the_factors_of_their_outputs_and_inputs(shards, rows):
    weights, outputs, inputs, _ = scaled(shards)
    own = shards.rows(f"{UP}.weight", rows)
    expected = own * outputs[rows, None] * inputs
    np.testing.assert_array_equal(weights.rows(f"{UP}.weight", rows), expected)


def test_blocks_are_all_rows_in_order(shards):
    weights, *_ = scaled(shards)
    blocks = list(weights.blocks(f"{UP}.weight"))
    ends = np.cumsum([len(block) for _, block in blocks])
    assert [first for first, _ in blocks] == [0, *ends[:-1]]
    whole = np.concatenate([block for _, block in blocks])
    np.testing.assert_array_equal(whole, weights.rows(f"{UP}.weight", slice(None)))


def test_a_bias_and_a_gain_have_the_factors_of_outputs(shards):
    weights, outputs, _, gain = scaled(shards)
    np.testing.assert_array_equal(
        weights.vector(f"{UP}.bias"), shards.vector(f"{UP}.bias") * outputs
    )
    np.testing.assert_array_equal(
        weights.vector(f"{NORM}.weight"), shards.vector(f"{NORM}.weight") * gain
    )


def test_weights_without_factors_are_the_source_s(shards):
    weights, *_ = scaled(shards)
    rows = np.array([1, 7])
    for name in ("lm_head.weight", f"{LAYER}.mlp.gate_proj.weight"):
        np.testing.assert_array_equal(weights.rows(name, rows), shards.rows(name, rows))
    np.testing.assert_array_equal(
        weights.vector("model.norm.weight"), shards.vector("model.norm.weight")
    )


def test_the_source_stays_as_it_is(shards):
    before = shards.rows(f"{UP}.weight", slice(None)).copy()
    weights, *_ = scaled(shards)
    weights.rows(f"{UP}.weight", slice(None))
    weights.forget(f"{UP}.weight")
    np.testing.assert_array_equal(shards.rows(f"{UP}.weight", slice(None)), before)


def test_factors_multiply_where_both_have_them():
    two, three = np.full(4, 2, np.float32), np.full(4, 3, np.float32)
    both = Factors(two, three).times(Factors(three))
    assert both.outputs is not None and both.outputs.tolist() == [6] * 4
    assert both.inputs is three
    assert Factors().times(Factors(None, two)).inputs is two
    assert Factors().times(Factors()).outputs is None
