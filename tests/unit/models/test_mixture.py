"""The facts of mixtures of experts from config.json, and experts that lie in one tensor."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from slmkit.checkpoint.folder import open_checkpoint
from slmkit.checkpoint.safetensors import Entry, unstack
from slmkit.errors import CheckpointError
from slmkit.interpreters.reference import Cache, Reference
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from slmkit.ops import Routing
from tiny_models import tiny_config


def spec_of(architecture, **changes):
    return read_spec(Config(tiny_config(architecture, **changes), "config.json"))


def test_layers_without_experts_are_those_that_qwen_names():
    assert spec_of("qwen3-moe").moe.layers == (False, True)
    assert spec_of("qwen2-moe", decoder_sparse_step=2).moe.layers == (False, True)


def test_an_expert_beside_the_chosen_ones_is_qwen_2_s():
    assert spec_of("qwen2-moe").moe.shared == 64
    assert spec_of("qwen3-moe").moe.shared == 0


def test_granite_s_weights_add_up_to_1_and_olmoe_s_do_not():
    assert spec_of("granite-moe").moe.routing == Routing(2, True)
    assert spec_of("olmoe").moe.routing == Routing(2, False)


@pytest.mark.parametrize("architecture", ["olmoe", "granite-moe"])
def test_more_chosen_than_there_are_is_refused(architecture):
    with pytest.raises(CheckpointError, match="num_experts_per_tok 5 is more than"):
        spec_of(architecture, num_experts_per_tok=5)


@pytest.mark.parametrize("architecture", ["olmoe", "qwen2-moe", "qwen3-moe", "granite-moe"])
def test_experts_of_another_activation_are_refused(architecture):
    with pytest.raises(CheckpointError, match="hidden_act is 'gelu_pytorch_tanh'"):
        spec_of(architecture, hidden_act="gelu_pytorch_tanh")


def test_olmoe_that_clips_is_refused():
    with pytest.raises(CheckpointError, match="clip_qkv"):
        spec_of("olmoe", clip_qkv=8.0)


def test_experts_of_one_tensor_are_read_by_number(tiny):
    shards = open_checkpoint(tiny("granite-moe")).shards
    stem = "model.layers.1.block_sparse_moe.input_linear"
    first, second = (shards.rows(f"{stem}.{number}.weight", slice(None)) for number in (0, 1))
    assert first.shape == second.shape == (192, 64)
    assert not np.array_equal(first, second)
    assert f"{stem}.weight" not in shards.where


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_matrices_of_one_tensor_lie_one_after_the_other(count, rows, width, start):
    whole = Entry("F32", (count, rows, width), start, start + 4 * count * rows * width)
    parts = list(unstack("x.weight", whole).values())
    assert [part.shape for part in parts] == [(rows, width)] * count
    assert parts[0].start == whole.start
    assert parts[-1].stop == whole.stop
    assert all(one.stop == other.start for one, other in pairwise(parts))


SCORES = arrays.arrays(np.float32, (3, 7), elements=st.integers(-9, 9))  # and so, ties


@given(SCORES, st.integers(1, 7), st.booleans())
def test_the_best_experts_are_weighed_and_the_others_are_not(scores, chosen, normalized):
    no_weights: Any = None
    reference = Reference(no_weights, [np.zeros(3, np.int64)], [Cache()])
    weights = reference.route(scores, Routing(chosen, normalized))
    for row, given_ in zip(scores, weights, strict=True):
        kept = np.argsort(-row, kind="stable")[:chosen]
        assert (np.delete(given_, kept) == 0).all()
        assert row[kept].min() >= np.delete(row, kept).max(initial=-np.inf)
        if normalized:
            assert abs(given_.sum() - 1) < 1e-5
