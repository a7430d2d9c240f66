"""Conditional variances of inputs: as the reference's inputs give them, without first tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts import texts_of
from slmkit.activations.conditional_variances import (
    input_variances,
    load_variances,
    save_variances,
)
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.interpreters import two_streams
from slmkit.interpreters.reference import Cache, Reference
from slmkit.quant.nearest_plane import Sweep, conditional_variances, damped
from tiers import ROWS, SAYS_MOST, some
from tiny_models import TINY

DAMPING = 0.1


class Inputs(Reference):
    """The reference, with the inputs of every linear but for first tokens."""

    def __init__(self, weights, texts):
        super().__init__(weights, texts, [Cache() for _ in texts])
        self.seen = {}

    def linear(self, x, name, width, bias=False):
        others = self.positions[self.tokens] > 0
        self.seen[name] = x[others]
        return super().linear(x, name, width, bias)


@given(st.integers(1, 40), st.integers(0, 99))
def test_they_are_what_regression_on_the_later_inputs_leaves(width, seed):
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((4 * width, width)) @ random.standard_normal((width, width))
    hessian = damped((inputs.T @ inputs / len(inputs)).astype(np.float32), DAMPING)
    found = conditional_variances(hessian)
    np.testing.assert_array_equal(Sweep.of(hessian).variances, found)
    order = np.argsort(hessian.diagonal(), kind="stable")
    whole = hessian.astype(np.float64)
    for place, at in enumerate(order):
        later = order[:place]  # GPTQ begins with the largest
        cross = whole[np.ix_([at], later)]
        left = whole[at, at] - cross @ np.linalg.solve(whole[np.ix_(later, later)], cross.T)
        np.testing.assert_allclose(found[at], left.item(), rtol=1e-3)


@pytest.mark.parametrize("row", some(TINY, SAYS_MOST, "olmoe", "gemma2", why=ROWS))
def test_they_are_those_of_the_reference_s_inputs(tiny, tmp_path, monkeypatch, row):
    monkeypatch.setattr(two_streams, "BATCH", 100)  # several batches
    checkpoint = open_checkpoint(tiny(row))
    texts = texts_of(checkpoint, 3)
    reference = Inputs(checkpoint.shards, texts)
    checkpoint.model.run(reference)
    names = checkpoint.model.multiplied - {"lm_head"}
    done: list[int] = []
    folder = tmp_path / "values"
    folder.mkdir()
    found = input_variances(
        checkpoint.shards, checkpoint.model, names, texts, DAMPING, folder, done.append
    )
    assert sum(done) == len(names)
    for name in names:
        inputs = reference.seen.get(name, np.empty((0, 1), np.float32))
        if not len(inputs):
            assert name not in found  # an expert that nobody chose
            continue
        energy = inputs.T @ inputs / np.float32(len(inputs))
        expected = conditional_variances(damped(energy, DAMPING))
        np.testing.assert_allclose(found[name], expected, rtol=2e-2, err_msg=name)


def test_only_what_is_asked_for_is_measured_once(tiny, tmp_path):
    checkpoint = open_checkpoint(tiny("llama"))
    name = "model.layers.1.mlp.down_proj"
    found = input_variances(
        checkpoint.shards,
        checkpoint.model,
        [name],
        texts_of(checkpoint, 2),
        DAMPING,
        tmp_path,
        lambda done: None,
    )
    assert found.keys() == {name}


def test_a_file_of_them(tmp_path):
    numbers = {"a": np.arange(3, dtype=np.float32), "b": np.ones(5, np.float32)}
    save_variances(numbers, tmp_path / "file")
    again = load_variances(tmp_path / "file")
    assert again.keys() == numbers.keys()
    for name, each in numbers.items():
        np.testing.assert_array_equal(again[name], each)
