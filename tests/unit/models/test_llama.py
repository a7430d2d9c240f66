"""The llama family's facts from config.json."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import record
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from slmkit.ops import NO_ROPE
from tiny_models import tiny_config


def spec_of(architecture, **changes):
    return read_spec(Config(tiny_config(architecture, **changes), "config.json"))


def test_mistral_windows_every_layer():
    assert spec_of("mistral-window").windows == (16, 16)
    assert spec_of("mistral").windows == (None, None)


def test_qwen_windows_layers_from_max_window_layers_on():
    assert spec_of("qwen2-window").windows == (None, 16)


def test_qwen_ignores_a_window_that_is_switched_off():
    assert spec_of("qwen2-window", use_sliding_window=False).windows == (None, None)


def test_layer_types_are_obeyed_where_they_are_written():
    kinds = ["sliding_attention", "full_attention"]
    assert spec_of("qwen2-window", layer_types=kinds).windows == (16, None)


def test_layer_types_of_another_kind_are_refused():
    with pytest.raises(CheckpointError, match="layer_types"):
        spec_of("qwen2-window", layer_types=["chunked_attention", "full_attention"])


def test_biases_follow_the_family():
    assert spec_of("qwen2").qkv_bias and not spec_of("qwen2").output_bias
    assert spec_of("llama-biases").output_bias and spec_of("llama-biases").mlp_bias
    assert not spec_of("mistral").qkv_bias


def test_a_layer_without_rope_attends_without_rotating():
    spec = replace(read_spec(Config(tiny_config("llama"), "config.json")), nope_layers=(1,))
    assert (spec.rope_at(0), spec.rope_at(1)) == (spec.rope, NO_ROPE)
    assert spec.ropes == (spec.rope,)
    lines = record(spec).lines
    rotated = [line.split()[0] for line in lines if " rope " in line]
    attends = [line.split() for line in lines if " attend " in line]
    assert [set(rotated) >= set(words[3:5]) for words in attends] == [True, False]
    assert len(rotated) == 2
