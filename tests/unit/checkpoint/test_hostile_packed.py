"""Packed matrices whose parts lie are refused with a sentence: shapes, types, groups, settings."""

from __future__ import annotations

import json
import shutil
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import packed_files as packing
from checkpoint_edits import edit_config, edit_weights, refuse
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.errors import CheckpointError
from tiny_models import tiny_config, write_checkpoint

UP = "model.layers.0.mlp.up_proj"
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
BNB = {"quant_method": "bitsandbytes"}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32}
MLX = {"group_size": 32, "bits": 4}
STATE = ".weight.quant_state.bitsandbytes__nf4"
MOST_MEMORY = (64 << 20) + (4 << 20)  # bytes: a buffer for config.json, and all else
FORMS = {
    "gptq": (packing.gptq, GPTQ),
    "awq": (packing.awq, AWQ),
    "ct": (packing.compressed, packing.ct_settings()),
    "mlx": (packing.mlx, MLX),
    "nf4": (packing.nf4, BNB),
    "int8": (packing.int8, BNB),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, (pack, config) in FORMS.items():
        folder = tmp_path_factory.mktemp("hostile") / name
        write_checkpoint(folder, {**tiny_config("llama"), "intermediate_size": 128})
        packing.pack_folder(folder, pack, config)
        made[name] = folder
    return made


def ints(*shape):
    return np.zeros(shape, np.int32)


def state(**changes):
    facts = {"blocksize": 64, "shape": [128, 64], "nested_blocksize": 256, **changes}
    return {STATE: np.frombuffer(json.dumps(facts).encode(), np.uint8)}


CASES = {
    "no zero points": ("gptq", {".qzeros": None}, "no tensor .*up_proj.qzeros"),
    "no scales": ("gptq", {".scales": None}, "no tensor .*up_proj.scales"),
    "floats as words": ("gptq", {".qweight": np.zeros((8, 128), np.float32)}, "should be I32"),
    "a vector of words": ("gptq", {".qweight": ints(8)}, "should be I32"),
    "nothing": ("gptq", {".qweight": ints(0, 128)}, "should be I32"),
    "other outputs": ("gptq", {".qweight": ints(8, 64)}, "scales"),
    "a group that is not there": ("gptq", {".g_idx": np.full(64, 2, np.int32)}, "do not exist"),
    "a negative group": ("gptq", {".g_idx": np.full(64, -1, np.int32)}, "do not exist"),
    "3 bits": ("gptq", {".qweight": ints(6, 128)}, "GPTQ of 3 bits"),
    "groups that leave inputs": ("gptq", {".scales": np.ones((3, 128), np.float16)}, "qzeros"),
    "another model": ("gptq", {".g_idx": ints(128), ".qweight": ints(16, 128)}, "shape"),
    "words of another width": ("awq", {".qweight": ints(64, 8)}, "should be"),
    "a group too many": ("awq", {".scales": np.ones((3, 128), np.float16)}, "qzeros"),
    "a shape that lies": ("ct", {".weight_shape": np.array([2**40, 64])}, "not that of its codes"),
    "a negative shape": ("ct", {".weight_shape": np.array([128, -64])}, "not that of its codes"),
    "a long shape": ("ct", {".weight_shape": np.array([128, 64, 1])}, "should be"),
    "scales of other rows": ("ct", {".weight_scale": np.ones((64, 2), np.float16)}, "should be"),
    "codes without scales": ("ct", {".weight_scale": None}, "no tensor .*weight_scale"),
    "biases of other groups": ("mlx", {".biases": np.ones((128, 1), np.float16)}, "should be"),
    "no biases": ("mlx", {".biases": None}, "no tensor .*biases"),
    "experts": ("mlx", {".weight": np.zeros((2, 128, 8), np.uint32)}, "several experts"),
    "words of 5 bits": ("mlx", {".weight": np.zeros((128, 10), np.uint32)}, "of 5 bits"),
    "no JSON": ("nf4", {STATE: np.frombuffer(b"{", np.uint8)}, "holds no JSON"),
    "JSON of no object": ("nf4", {STATE: np.frombuffer(b"[]", np.uint8)}, "no JSON object"),
    "a deep JSON": ("nf4", {STATE: np.full(60000, ord("["), np.uint8)}, "holds no JSON"),
    "a long state": ("nf4", {STATE: np.zeros(1 << 17, np.uint8)}, "131072 bytes"),
    "a huge shape": ("nf4", state(shape=[2**60, 64]), "numbers"),
    "no matrix": ("nf4", state(shape=[64]), "of no matrix"),
    "blocks of nothing": ("nf4", state(blocksize=0), "blocksize"),
    "blocks of another size": ("nf4", state(blocksize=128), "should be"),
    "an offset that is text": ("nf4", state(nested_offset="1"), "nested_offset"),
    "no state": ("nf4", {STATE: None}, "no tensor .*quant_state"),
    "a short table": ("nf4", {".weight.quant_map": np.zeros(8, np.float32)}, "should be"),
    "scales of other outputs": ("int8", {".SCB": np.ones(64, np.float32)}, "should be"),
}


@pytest.mark.parametrize("case", CASES)
def test_parts_that_do_not_fit_are_refused(folders, tmp_path, case):
    form, changes, said = CASES[case]
    folder = shutil.copytree(folders[form], tmp_path / "edited")
    edit_weights(folder, **{UP + suffix: array for suffix, array in changes.items()})
    refuse(folder, said)


SETTINGS = {
    "Marlin": ("gptq", {**GPTQ, "checkpoint_format": "marlin"}, "layout 'marlin'"),
    "GEMV": ("awq", {**AWQ, "version": "gemv"}, "layout 'gemv'"),
    "AWQ of 8 bits": ("awq", {**AWQ, "bits": 8}, "only 4 bits"),
    "bits that are text": ("gptq", {**GPTQ, "bits": "4"}, "bits"),
    "no settings of weights": ("ct", {**packing.ct_settings(), "config_groups": {}}, "no weights"),
    "floats of 4 bits": (
        "ct",
        {
            **packing.ct_settings(),
            "config_groups": {"g": {"weights": {"num_bits": 4, "type": "float"}}},
        },
        "packed float numbers",
    ),
    "rotations": ("ct", {**packing.ct_settings(), "transform_config": {"a": 1}}, "rotations"),
    "another mode": ("mlx", {**MLX, "mode": "mxfp4"}, "mode 'mxfp4'"),
    "another method": ("gptq", {"quant_method": "hqq"}, r"already quantized \(hqq\)"),
    "a list for a method": ("gptq", {"quant_method": ["gptq"]}, "already quantized"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_of_other_layouts_are_refused_by_name(folders, tmp_path, case):
    form, values, said = SETTINGS[case]
    folder = shutil.copytree(folders[form], tmp_path / "edited")
    key = "quantization" if form == "mlx" else "quantization_config"
    edit_config(folder, **{key: values})
    refuse(folder, said)


def test_scales_that_are_no_numbers_are_refused_when_they_are_read(folders, tmp_path):
    folder = shutil.copytree(folders["gptq"], tmp_path / "edited")
    edit_weights(folder, **{f"{UP}.scales": np.full((2, 128), np.inf, np.float16)})
    shards = open_checkpoint(folder).shards
    assert UP not in shards.imports
    with pytest.raises(CheckpointError, match="holds"):
        shards.rows(f"{UP}.weight", slice(None))


DTYPES = st.sampled_from([np.int32, np.uint32, np.int8, np.uint8, np.float16, np.float32, np.int64])
ENDINGS = (
    ".qweight .qzeros .scales .g_idx .weight .biases .weight_packed .weight_scale .weight_shape "
    ".weight_zero_point .weight_g_idx .weight.absmax .weight.quant_map .weight.nested_absmax "
    f".weight.nested_quant_map .SCB {STATE}"
)
SUFFIXES = st.sampled_from(ENDINGS.split())
SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)
PARTS = st.dictionaries(SUFFIXES, st.tuples(DTYPES, SHAPES), max_size=4)


@given(st.sampled_from(sorted(FORMS)), PARTS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_parts_are_read_or_refused(folders, tmp_path, form, parts):
    folder = tmp_path / "any"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(folders[form], folder)
    random = np.random.default_rng(1)
    arrays = {
        UP + suffix: random.integers(0, 100, shape).astype(dtype)
        for suffix, (dtype, shape) in parts.items()
    }
    edit_weights(folder, **arrays)
    tracemalloc.start()
    try:
        shards = open_checkpoint(folder).shards
        shards.imports, shards.rounded, shards.rows(f"{UP}.weight", slice(None))
    except CheckpointError as error:
        assert error.hint
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MOST_MEMORY
