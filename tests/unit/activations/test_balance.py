"""Balance: the formula by hand and as a minimum, and codes that lose less for it."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts import texts_of
from observed import of_columns, of_rows
from outlier_twins import outlier_twin
from slmkit.activations.balance import MOST, Balance
from slmkit.activations.channel_factors import channel_factors
from slmkit.activations.conditional_variances import input_variances
from slmkit.activations.observe import Activations
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.checkpoint.scaled_weights import ScaledWeights
from slmkit.interpreters.recorder import summarize
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from slmkit.quant.linear_group import grid_of
from slmkit.quant.nearest_plane import Sweep, damped, loss, nearest_plane
from slmkit.recipe.scheme import Scheme
from tiny_models import tiny_config

LAYER = "model.layers.0"
NORM = f"{LAYER}.post_attention_layernorm"
GATE, UP = f"{LAYER}.mlp.gate_proj", f"{LAYER}.mlp.up_proj"
DOWN = f"{LAYER}.mlp.down_proj"
DAMPING = 0.1
QUIET = Activations(1)  # of which no sizes are known
INT4 = Scheme(encoding="group-wise", bits=4, group_size=32, scales="two-level", method="gptq")


@pytest.fixture
def model():
    return summarize(read_spec(Config(tiny_config("llama"), "config.json")))


class Columns:
    """Matrices with a size for each column: that of an up projection, and 1 in all others."""

    def __init__(self, model, sizes):
        self.model, self.sizes = model, sizes

    def vector(self, tensor):
        return np.ones(self.model.weights[tensor].shape, np.float32)

    def forget(self, tensor):
        pass

    def rows(self, tensor, rows):
        shape = self.model.weights[tensor].shape
        signs = np.where(np.arange(np.prod(shape)) % 2, 1, -1).reshape(shape)
        whole = signs * (self.sizes if "up_proj" in tensor else 1)
        return whole.astype(np.float32)[rows]

    def blocks(self, tensor):
        half = self.model.weights[tensor].shape[0] // 2
        yield 0, self.rows(tensor, slice(0, half))
        yield half, self.rows(tensor, slice(half, None))


def test_a_norm_s_factors_by_hand(model):
    """(v / w^2)^(1/4) with v of 16 in half of the channels, over the median of all."""
    variances = np.repeat(np.array([16, 1], np.float32), 32)
    weights = Columns(model, np.tile([1, 4], 32))
    found = channel_factors(model, weights, Balance(QUIET, {UP: variances}, {UP}))
    each = np.repeat([2.0, 1.0], 32) / np.tile([1, 2], 32)  # 2, 1, 1 and 1/2: a median of 1
    np.testing.assert_allclose(of_columns(found[UP]), each, rtol=1e-6)
    np.testing.assert_allclose(of_columns(found[GATE]), each, rtol=1e-6)  # it reads the same
    np.testing.assert_allclose(of_rows(found[NORM]), 1 / each, rtol=1e-6)
    assert found.keys() == {UP, GATE, NORM}


def test_a_linear_s_factors_are_at_least_their_median(model):
    variances = np.repeat(np.array([256, 16, 1], np.float32), 32)
    found = channel_factors(model, Columns(model, 1), Balance(QUIET, {DOWN: variances}, {DOWN}))
    # 4, 2 and 1 by the formula; the median is 2, and over it they are 2, 1 and 1.
    np.testing.assert_allclose(of_columns(found[DOWN]), np.repeat([2, 1, 1], 32), rtol=1e-6)
    np.testing.assert_allclose(of_rows(found[UP]), 1 / np.repeat([2, 1, 1], 32), rtol=1e-6)


@pytest.mark.parametrize("known", [{}, {DOWN: np.ones(96, np.float32)}])
def test_without_variances_or_codes_that_count_there_are_none(model, known):
    assert channel_factors(model, Columns(model, 1), Balance(QUIET, known, {UP})) == {}


def test_no_channel_s_activations_stay_far_above_the_others(model):
    """One that is a thousand times larger than its variance tells is made as small as allowed."""
    largest = np.ones(64, np.float32)
    largest[5] = 1000
    sizes = Activations(1, inputs={UP: largest})
    balance = Balance(sizes, {UP: np.ones(64, np.float32)}, {UP})
    factors = of_columns(channel_factors(model, Columns(model, 1), balance)[UP])
    left = largest / factors
    np.testing.assert_allclose(left[5] / np.median(left), MOST, rtol=1e-6)
    np.testing.assert_allclose(np.delete(factors, 5), factors[0])


def test_the_formula_is_a_minimum(model):
    """Of a group's loss, (sum of w^2 f^2) (sum of v / f^2): any other factors lose more."""
    random = np.random.default_rng(1)
    variances = random.lognormal(0, 2, 64).astype(np.float32)
    sizes = random.lognormal(0, 1, 64)
    balance = Balance(QUIET, {UP: variances}, {UP})
    best = of_columns(channel_factors(model, Columns(model, sizes), balance)[UP])

    def lost(factors):
        return np.square(sizes * factors).sum() * (variances / np.square(factors)).sum()

    assert lost(best) < 0.3 * lost(np.ones(64))
    for _ in range(20):
        assert lost(best) < lost(best * random.lognormal(0, 0.1, 64))


@pytest.mark.parametrize("row", ["llama", "gemma2"])
def test_codes_of_an_outlier_twin_lose_less(tmp_path, row):
    """By the loss of GPTQ on inputs of those variances; q and k read a norm with outliers."""
    checkpoint = open_checkpoint(outlier_twin(tmp_path / "twin", row))
    model, texts = checkpoint.model, texts_of(checkpoint, 6)
    names = [name for name in model.matrices if name.endswith(("q_proj", "k_proj"))]
    variances = input_variances(
        checkpoint.shards, model, names, texts, DAMPING, tmp_path, lambda done: None
    )
    factors = channel_factors(model, checkpoint.shards, Balance(QUIET, variances, names))
    scaled = ScaledWeights(checkpoint.shards, factors)
    random = np.random.default_rng(1)
    for name in names:
        own = factors[name]
        before, after = (
            each.rows(f"{name}.weight", slice(None)) for each in (checkpoint.shards, scaled)
        )
        # Inputs with these conditional variances: independent ones, of these sizes.
        inputs = random.standard_normal((400, before.shape[1])) * np.sqrt(variances[name])
        plain = lost(before, inputs.astype(np.float32))
        balanced = lost(after, (inputs / of_columns(own)).astype(np.float32))
        assert balanced < plain


def lost(weight, inputs):
    hessian = damped(inputs.T @ inputs / np.float32(len(inputs)), 1e-3)
    sweep = Sweep.of(hessian)
    _, errors = nearest_plane(weight, sweep, grid_of(INT4, weight, sweep.variances))
    return loss(errors, hessian)
