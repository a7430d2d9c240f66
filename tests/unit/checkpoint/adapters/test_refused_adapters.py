"""What an adapter says and cannot be merged is refused by name; files of strangers do no harm."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peft_adapters import SETTINGS, edit_settings, edit_tensors, stored, write_adapter
from slmkit.checkpoint.adapters.peft_config import LoraConfig, read_lora_config
from slmkit.checkpoint.adapters.stored import modules_of
from slmkit.checkpoint.adapters.targets import find
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.errors import CheckpointError

NAN, HUGE = float("nan"), 10**30
CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "another-kind": ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
    "no-kind": ({"peft_type": ...}, "peft_type is None"),
    "mlx": ({"peft_type": ..., "lora_parameters": {}}, "one of mlx-lm"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
    "loftq": ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
    "mica": ({"init_lora_weights": "mica"}, "init_lora_weights is 'mica'"),
    "one-is-not-true": ({"init_lora_weights": 1}, "init_lora_weights is 1"),
    "bias-of-b": ({"lora_bias": True}, "lora_bias is True"),
    "qalora": ({"use_qalora": True}, "use_qalora is True"),
    "alora": ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
    "replicated": ({"layer_replication": [[0, 1], [0, 2]]}, "layer_replication"),
    "parameters": ({"target_parameters": ["experts.up"]}, "target_parameters"),
    "tokens": ({"trainable_token_indices": [7]}, "trainable_token_indices"),
    "of-the-future": ({"use_something": "new"}, "use_something is 'new'"),
    "megatron": ({"megatron_config": {"a": 1}}, "megatron_config"),
    "unknown-bias": ({"bias": "some"}, "bias is 'some'"),
    "no-rank": ({"r": ...}, "r is missing"),
    "rank-0": ({"r": 0}, "r is 0"),
    "huge-rank": ({"r": HUGE}, "r is 1000"),
    "rank-of-words": ({"r": "8"}, "r is '8'"),
    "another-rank": ({"r": 5}, r"lora_A.weight has the shape \(4, 64\), expected \(5, 64\)"),
    "nan-alpha": ({"lora_alpha": NAN}, "lora_alpha is nan"),
    "no-alpha": ({"lora_alpha": None}, "lora_alpha is missing"),
    "negative-alpha": ({"lora_alpha": -8}, "lora_alpha is -8"),
    "pattern-of-rank": ({"rank_pattern": {"q_proj": 5}}, r"expected \(5, 64\)"),
    "pattern-of-words": ({"rank_pattern": {"q_proj": "x"}}, "rank_pattern: q_proj is 'x'"),
    "pattern-of-nan": ({"alpha_pattern": {"q_proj": NAN}}, "alpha_pattern: q_proj is nan"),
    "pattern-is-a-list": ({"alpha_pattern": [1]}, "alpha_pattern is"),
    "more-targets": ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "names model.layers.0.s"),
    "fewer-targets": ({"target_modules": ["v_proj"]}, "has a LoRA of .*q_proj"),
    "layers": ({"layers_to_transform": [0]}, "has a LoRA of model.layers.1"),
    "excluded": ({"exclude_modules": ["q_proj"]}, "has a LoRA of .*q_proj"),
    "saved": ({"modules_to_save": ["classifier"]}, "modules_to_save names classifier"),
    "targets-of-numbers": ({"target_modules": [1]}, "target_modules is"),
    "expression": ({"target_modules": "(q_proj"}, "cannot be compared with the model's"),
    "expression-of-rank": ({"rank_pattern": {"[": 4}}, "cannot be compared with the model's"),
    "dora": ({"use_dora": True}, "says use_dora, and the file has no magnitudes"),
    "words-for-dora": ({"use_dora": "yes"}, "use_dora is 'yes'"),
}
BAD = np.ones((4, 64), np.float32)
TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "no-b": ({r"0__self_attn__q_proj__lora_B": None}, "no lora_B of model.layers.0.self_attn.q"),
    "no-a": ({r"1__self_attn__v_proj__lora_A": None}, "no lora_A of model.layers.1.self_attn.v"),
    "no-layer": ({r"layers__1": None}, "names model.layers.1.self_attn.q_proj, of which .* noth"),
    "turned": (
        {r"0__self_attn__v_proj__lora_B": BAD},
        r"has the shape \(4, 64\), expected \(32, 4",
    ),
    "nan": ({r"q_proj__lora_A": BAD * NAN}, "holds NaN or infinity"),
    "nothing": ({r"lora": None}, "of which the adapter's file has nothing"),
}
NAMES = {
    "layer-9": (
        "model.layers.9.self_attn.q_proj.lora_A.weight",
        "changes model.layers.9.self_attn",
    ),
    "path": ("../../etc/passwd.lora_A.weight", "which the model does not have"),
    "kind": ("model.layers.0.self_attn.q_proj.ia3_l", "of no kind that slmkit merges"),
    "head-bias": ("lm_head.bias", "the model has no lm_head.bias"),
    "magnitude": (
        "model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "does not say use_dora, and the file has magnitudes",
    ),
    "twice": ("model.layers.0.self_attn.q_proj.lora_A.default.weight", "are the same"),
}


@pytest.fixture
def base(tiny):
    return tiny("llama")


@pytest.fixture
def adapter(base, tmp_path):
    return write_adapter(tmp_path / "a", base)


def refused(base, adapter, said):
    with pytest.raises(CheckpointError, match=said) as caught:
        open_checkpoint(base, adapters=[adapter])
    assert caught.value.hint and len(caught.value.message) < 400


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_is_refused_by_name(base, adapter, case):
    changes, said = CONFIGS[case]
    edit_settings(adapter, changes)
    refused(base, adapter, said)


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_are_refused_by_name(base, adapter, case):
    changes, said = TENSORS[case]
    edit_tensors(adapter, **changes)
    refused(base, adapter, said)


@pytest.mark.parametrize("case", NAMES)
def test_a_tensor_of_another_model_or_kind_is_refused_by_name(base, adapter, case):
    name, said = NAMES[case]
    tensors = stored(adapter) | {f"base_model.model.{name}": np.ones(64, np.float32)}
    safetensors.numpy.save_file(tensors, adapter / "adapter_model.safetensors")
    refused(base, adapter, said)


def test_whole_numbers_are_no_adapter(base, adapter):
    edit_tensors(adapter, q_proj__lora_A=np.ones((4, 64), np.int8))
    refused(base, adapter, "stored as I8")


def test_an_expression_that_runs_for_ever_is_stopped(base, adapter):
    edit_settings(adapter, {"target_modules": r"(([a-z._0-9]+)+)+X"})
    began = time.monotonic()
    refused(base, adapter, "it took more than 5 s")
    assert time.monotonic() - began < 60


def test_a_folder_that_is_no_adapter_is_refused(base, adapter, tmp_path):
    refused(base, tmp_path / "none", "is not a folder")
    (tmp_path / "empty").mkdir()
    refused(base, tmp_path / "empty", "has no adapter_config.json")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    refused(base, adapter, "as pickle")
    (adapter / "adapter_model.bin").unlink()
    refused(base, adapter, "has no adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text("[1]")
    refused(base, adapter, "not a JSON object")


def test_a_link_out_of_the_folder_is_refused(base, adapter, tmp_path):
    path = adapter / "adapter_model.safetensors"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    refused(base, adapter, "is a link out of")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = [*SETTINGS, "r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform"]
PLAIN = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(changes=st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), JSON, max_size=4))
def test_any_config_is_read_or_refused_in_words(tmp_path, changes):
    Path(tmp_path / "adapter_config.json").write_text(json.dumps({**SETTINGS, **PLAIN, **changes}))
    try:
        config = read_lora_config(tmp_path)
    except CheckpointError as error:
        assert error.message and error.hint
    else:
        assert 1 <= config.r <= 1 << 16 and 0 < config.lora_alpha <= 1e30
        assert LoraConfig(**json.loads(json.dumps(config.as_json()))) == config


@given(
    names=st.lists(
        st.lists(
            st.sampled_from(["a", "lora_A", "weight", "bias", "default", "", "base_layer"])
        ).map(".".join),
        unique=True,
        max_size=6,
    )
)
def test_any_names_of_tensors_are_parted_or_refused(names):
    try:
        found = modules_of(names)
    except CheckpointError as error:
        assert error.hint
    else:
        assert sorted(each for parts in found.values() for each in parts.values()) == sorted(names)


MODULES = ["model.layers.0.mlp.up", "model.layers.1.mlp.up", "model.layers.1.mlp.gate_up", "up"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"target_modules": ["up"]}, [0, 1, 3]),
        ({"target_modules": ["1.mlp.up"]}, [1]),
        ({"target_modules": "up"}, [3]),
        ({"target_modules": r".*up"}, [0, 1, 2, 3]),
        ({"target_modules": ["up"], "layers_to_transform": [1]}, [1, 3]),  # "up" is named in full
        ({"target_modules": ["mlp.up"], "layers_to_transform": [0], "layers_pattern": ["x"]}, []),
        ({"target_modules": ["up"], "modules_to_save": ["mlp"]}, [3]),
        ({"target_modules": ["up"], "exclude_modules": r"model\.layers\.0.*"}, [1, 3]),
        ({"target_modules": "all-LINEAR"}, [2]),
    ],
)
def test_modules_are_named_by_peft_s_rules(changes, expected):
    config = LoraConfig(4, 8.0, False, False, [], [], [], [], {}, {}, [])
    found = find({**config.as_json(), **changes}, MODULES, MODULES[2:3])
    assert sorted(found) == sorted(MODULES[each] for each in expected)


def test_a_product_beyond_float32_is_refused(base, tmp_path):
    adapter = write_adapter(tmp_path / "large", base, alpha=1e30, size=1e20)
    refused(base, adapter, "holds NaN or infinity")
