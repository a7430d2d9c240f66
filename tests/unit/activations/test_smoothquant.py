"""SmoothQuant's factors: the formula by hand, and models that stay the same to the last digits."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts import texts_of
from observed import ALPHA, TEXTS, observed, of_columns, of_rows
from outlier_twins import OVER_FLOAT16, PEAK, TWINS, outlier_twin
from slmkit.activations.channel_factors import LARGEST, channel_factors
from slmkit.activations.observe import Activations
from slmkit.activations.scale_pairs import scale_pairs
from slmkit.activations.smoothquant import SmoothQuant
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.checkpoint.scaled_weights import ScaledWeights
from slmkit.interpreters.recorder import summarize
from slmkit.interpreters.reference import logits
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from slmkit.planning.memory import matrix_schemes
from slmkit.planning.prepare import Preparation
from slmkit.recipe.calibration import Calibration
from slmkit.recipe.recipe import load_recipe
from tiny_models import TINY, tiny_config

EXACT = 2e-5  # of the largest logit: sums in float32 round differently; measured 1e-6, once 1e-5
FORCED = 1 / 8  # a stream scale
LAYER = "model.layers.0"
UP, DOWN = f"{LAYER}.mlp.up_proj", f"{LAYER}.mlp.down_proj"
NORM = f"{LAYER}.post_attention_layernorm"


class Constant:
    """Matrices whose numbers all have one magnitude: 1 in gate projections, 4 in the others."""

    def __init__(self, model):
        self.model = model

    def vector(self, tensor):
        return np.ones(self.model.weights[tensor].shape, np.float32)

    def rows(self, tensor, rows):
        shape = self.model.weights[tensor].shape
        return np.full(shape, -1 if "gate" in tensor else 4, np.float32)[rows]

    def blocks(self, tensor):
        yield 0, self.rows(tensor, slice(None))

    def forget(self, tensor):
        pass


@pytest.fixture
def model():
    return summarize(read_spec(Config(tiny_config("llama"), "config.json")))


def sizes(model, **special):
    """Activations that are 1 in every channel, but for some linears' inputs."""
    inputs = {
        name: np.ones(weight.shape[1], np.float32)
        for name in model.matrices
        for weight in [model.weights[f"{name}.weight"]]
    }
    return Activations(1, inputs=inputs | special)


def smoothing_factors(model, weights, found, alpha, left_out=()):
    return channel_factors(model, weights, SmoothQuant(found, alpha), left_out)


def test_a_linear_s_factors_by_hand(model):
    """sqrt(activation) / sqrt(weight), with weights of 4; at least the median, over it."""
    active = np.repeat(np.array([16, 64, 1, 0], np.float32), [50, 20, 20, 6])
    found = smoothing_factors(model, Constant(model), sizes(model, **{DOWN: active}), alpha=0.5)
    # By the formula 2, 4, 0.5 and, for a channel that is never used, 1; the median is 2.
    np.testing.assert_allclose(of_columns(found[DOWN]), np.repeat([1, 2, 1, 1], [50, 20, 20, 6]))
    np.testing.assert_allclose(of_rows(found[UP]), 1 / of_columns(found[DOWN]))


def test_a_norm_s_factors_by_hand(model):
    """Weights of 1 and 4, of which the larger counts; no floor, and no median."""
    read = np.repeat(np.array([64, 4, 1, 0], np.float32), 16)
    read_by = {f"{LAYER}.mlp.gate_proj": read / 2, UP: read}
    found = smoothing_factors(model, Constant(model), sizes(model, **read_by), alpha=0.5)
    np.testing.assert_allclose(of_rows(found[NORM]), 1 / np.repeat([4, 1, 0.5, 1], 16))
    np.testing.assert_allclose(of_columns(found[UP]), np.repeat([4, 1, 0.5, 1], 16))
    np.testing.assert_array_equal(of_rows(found[UP]), np.ones(96))
    assert found[NORM].inputs is None


def test_a_group_s_query_heads_share_a_channel_s_factor(model):
    active = np.ones(64, np.float32)
    active[16 + 3] = 256  # channel 3 of query head 1, which reads kv head 0
    output = f"{LAYER}.self_attn.o_proj"
    found = smoothing_factors(model, Constant(model), sizes(model, **{output: active}), alpha=0.5)
    inputs = of_columns(found[output])
    outputs = of_rows(found[f"{LAYER}.self_attn.v_proj"])
    assert np.flatnonzero(inputs == 16).tolist() == [3, 16 + 3]
    assert np.flatnonzero(outputs == 1 / 16).tolist() == [3]


def test_a_factor_stays_within_its_bounds(model):
    active = np.full(64, 1e30, np.float32)
    found = smoothing_factors(model, Constant(model), sizes(model, lm_head=active), 0.5)
    assert of_columns(found["lm_head"]).tolist() == [LARGEST] * 64


def test_weights_that_are_left_out_have_no_factors(model):
    every = smoothing_factors(model, Constant(model), sizes(model), 0.5)
    found = smoothing_factors(model, Constant(model), sizes(model), 0.5, left_out=[UP])
    assert every.keys() - found.keys() == {UP, DOWN, NORM, f"{LAYER}.mlp.gate_proj"}


def test_an_expert_that_no_text_chose_has_factors_of_its_norm_alone(tiny):
    checkpoint = open_checkpoint(tiny("qwen2-moe"))
    found = observed(checkpoint)
    idle = f"{LAYER}.mlp.experts.1"
    for sizes_of in (found.inputs, found.peaks, found.outputs):
        for name in [name for name in sizes_of if name.startswith(idle)]:
            del sizes_of[name]
    factors = smoothing_factors(checkpoint.model, checkpoint.shards, found, ALPHA)
    assert of_columns(factors[f"{idle}.down_proj"]).tolist() == [1] * 32
    gate, other = factors[f"{idle}.gate_proj"], factors[f"{LAYER}.mlp.gate"]
    np.testing.assert_array_equal(of_columns(gate), of_columns(other))


def check_exact(folder):
    """All factors at once leave the logits as they were, and every pair has some."""
    checkpoint = open_checkpoint(folder)
    schemes = matrix_schemes(checkpoint.model, load_recipe("int4"))
    prepared = Preparation(observed(checkpoint), FORCED, ALPHA, "key", (), Calibration())
    factors = prepared.factors(checkpoint, schemes)
    assert {name for pair in scale_pairs(checkpoint.model) for name in pair.names} <= set(factors)
    weights = ScaledWeights(checkpoint.shards, factors)
    ids = texts_of(checkpoint, TEXTS, seed=9)
    expected = logits(checkpoint.shards, checkpoint.spec, ids)
    got = logits(weights, checkpoint.spec.scaled(FORCED), ids)
    for one, other in zip(expected, got, strict=True):
        assert np.abs(one - other).max() < EXACT * np.abs(one).max()


@pytest.mark.parametrize("row", TINY)
def test_the_factors_leave_a_model_the_same(tiny, row):
    check_exact(tiny(row))


@pytest.mark.parametrize("row", TWINS)
@pytest.mark.parametrize("peak", [PEAK, OVER_FLOAT16])
def test_the_factors_leave_an_outlier_twin_the_same(tmp_path, row, peak):
    check_exact(outlier_twin(tmp_path / "twin", row, peak))


@pytest.mark.parametrize("row", ["llama", "gemma2", "olmoe"])
def test_the_factors_make_channels_of_a_twin_alike(tmp_path, row):
    """Largest over median channel of the norms' outputs: 30 by planting, a fraction after."""
    checkpoint = open_checkpoint(outlier_twin(tmp_path / "twin", row))
    before = observed(checkpoint).inputs
    factors = smoothing_factors(checkpoint.model, checkpoint.shards, observed(checkpoint), ALPHA)
    for pair in scale_pairs(checkpoint.model):
        if pair.is_norm:
            name = pair.consumers[0]
            after = before[name] / of_columns(factors[name])
            assert stands_out(after) < stands_out(before[name]) / 4


def stands_out(channels):
    return channels.max() / np.median(channels)
