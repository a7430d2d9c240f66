"""GPTQ, AWQ, compressed-tensors, MLX and bitsandbytes: the same numbers, and codes where exact."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import packed_files as packing
from checkpoint_edits import edit_weights, refuse, shard
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.checkpoint.formats.packed.file import likely_codes, with_packed
from slmkit.checkpoint.formats.packed.matrix import fields
from slmkit.checkpoint.safetensors import SafetensorsFile
from slmkit.models.config import read_config
from slmkit.workflows.inspect import inspect
from tiny_models import tiny_config, write_checkpoint

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}
MLX = {"group_size": 32, "bits": 4}
CT8 = packing.ct_settings(8, None)
UP = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "llama"
    return write_checkpoint(folder, {**tiny_config("llama"), "intermediate_size": 128})


@pytest.fixture
def folder(floats, tmp_path):
    return shutil.copytree(floats, tmp_path / "packed")


SYMMETRIC, ASYMMETRIC = "int4 g32 float16 scales", "int4 g32 asymmetric float16 scales"
CASES: dict[str, Any] = {  # how it is packed, settings, options, the label and the codes' scheme
    "GPTQ": (packing.gptq, GPTQ, {}, "GPTQ int4 g32", SYMMETRIC),
    "GPTQ without g_idx": (packing.gptq, GPTQ, {"index": False}, "GPTQ int4 g32", SYMMETRIC),
    "GPTQ with zero points": (
        packing.gptq,
        {**GPTQ, "sym": False},
        {"symmetric": False},
        "GPTQ int4 g32",
        ASYMMETRIC,
    ),
    "GPTQ act-order": (packing.gptq, GPTQ, {"order": True}, "GPTQ int4 g32 act-order", None),
    "GPTQ of 8 bits": (
        packing.gptq,
        {**GPTQ, "bits": 8},
        {"bits": 8},
        "GPTQ int8 g32",
        "int8 g32 float16 scales",
    ),
    "GPTQ of a group that no scheme has": (
        packing.gptq,
        {**GPTQ, "group_size": 16},
        {"group": 16},
        "GPTQ int4 g16",
        None,
    ),
    "AWQ": (packing.awq, AWQ, {}, "AWQ int4 g32", ASYMMETRIC),
    "compressed-tensors": (
        packing.compressed,
        packing.ct_settings(),
        {},
        "compressed-tensors int4 g32",
        SYMMETRIC,
    ),
    "compressed-tensors with zero points": (
        packing.compressed,
        packing.ct_settings(symmetric=False),
        {"symmetric": False},
        "compressed-tensors int4 g32",
        ASYMMETRIC,
    ),
    "MLX": (packing.mlx, MLX, {}, "MLX affine int4 g32", ASYMMETRIC),
    "nf4": (packing.nf4, BNB, {}, "bitsandbytes nf4 blocks of 64", None),
    "nf4 with plain scales": (
        packing.nf4,
        BNB,
        {"nested": False},
        "bitsandbytes nf4 blocks of 64",
        None,
    ),
    "int8": (
        packing.int8,
        BNB,
        {},
        "bitsandbytes int8 per channel",
        "int8 per-channel float16 scales",
    ),
}
ROUNDED = ("MLX", "int8")


@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_that_were_packed(folder, case):
    pack, config, options, label, scheme = CASES[case]
    expected = packing.pack_folder(folder, pack, config, **options)
    checkpoint = open_checkpoint(folder)
    shards = checkpoint.shards
    assert checkpoint.notices == ()
    rows = np.array([5, 0, 9])
    for tensor, weight in expected.items():
        np.testing.assert_array_equal(shards.rows(tensor, slice(None)), weight)
        np.testing.assert_array_equal(shards.rows(tensor, rows), weight[rows])
        np.testing.assert_array_equal(shards.rows(tensor, slice(3, 17)), weight[3:17])
    assert set(shards.formats.values()) == {label}
    assert {str(each) for each in shards.imports.values()} == ({scheme} if scheme else set())
    for name in shards.imports:
        weight = expected[f"{name}.weight"]
        for part in (slice(None), slice(8, 24)):
            found = shards.codes(name, part).dequantize()
            if case in ROUNDED:
                assert 0 < np.abs(found - weight[part]).max() < 0.02 * np.abs(weight).max()
            else:
                np.testing.assert_array_equal(found, weight[part])
    assert set(shards.rounded) == (set(shards.imports) if case in ROUNDED else set())
    (row,) = inspect(folder).codes
    assert (row.format, row.scheme, row.rounded) == (label, scheme or "", case in ROUNDED)


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("nf4")])
def test_headers_alone_tell_the_same_formats(folder, case):
    pack, config, options, label, scheme = CASES[case]
    shuffled = {"desc_act": True} if case == "GPTQ act-order" else {}
    packing.pack_folder(folder, pack, {**config, **shuffled}, **options)
    opened = open_checkpoint(folder)
    entries = SafetensorsFile(folder / "model.safetensors").entries
    found = with_packed(entries, read_config(folder / "config.json"))
    names = {name for name, entry in found.items() if entry.coded}
    assert names == {f"{name}.weight" for name in opened.shards.formats}
    for name in names:
        assert found[name].dtype == label
        assert found[name].shape == opened.model.weights[name].shape
        likely, rounded = likely_codes(found[name])
        assert (likely is None) == (scheme is None) and rounded == (case in ROUNDED)
    assert set(found) == set(opened.model.weights)


@pytest.mark.parametrize("second", [False, True], ids=["version 1", "version 2"])
@pytest.mark.parametrize("stated", ["gptq", "gptq_v2"])
@pytest.mark.parametrize(("symmetric", "bits"), [(False, 4), (True, 4), (True, 8)])
def test_zero_points_are_told_by_the_tensor_not_by_the_field(
    folder, second, stated, symmetric, bits
):
    config = {**GPTQ, "checkpoint_format": stated, "sym": symmetric, "bits": bits}
    options = {"second": second, "symmetric": symmetric, "bits": bits}
    expected = packing.pack_folder(folder, packing.gptq, config, **options)
    shards = open_checkpoint(folder).shards
    for tensor, weight in expected.items():
        np.testing.assert_array_equal(shards.rows(tensor, slice(None)), weight)


def test_zero_points_of_zero_borrow_from_the_next_field(folder):
    def pack(weight):
        return packing.gptq(np.abs(weight), symmetric=False)  # nothing is below zero

    expected = packing.pack_folder(folder, pack, {**GPTQ, "sym": False})
    shards = open_checkpoint(folder).shards
    for tensor, weight in expected.items():
        np.testing.assert_array_equal(shards.rows(tensor, slice(None)), weight)


@pytest.mark.parametrize("second", [False, True], ids=["version 1", "version 2"])
def test_of_any_zero_points_of_8_bits_the_field_tells(folder, second):
    stated = "gptq_v2" if second else "gptq"
    config = {**GPTQ, "checkpoint_format": stated, "sym": False, "bits": 8}
    options = {"second": second, "symmetric": False, "bits": 8}
    expected = packing.pack_folder(folder, packing.gptq, config, **options)
    shards = open_checkpoint(folder).shards
    assert not shards.imports
    for tensor, weight in expected.items():
        np.testing.assert_array_equal(shards.rows(tensor, slice(None)), weight)


def test_biases_that_are_whole_numbers_of_scales_are_exact(folder):
    expected = packing.pack_folder(folder, packing.mlx, MLX, whole=True)
    shards = open_checkpoint(folder).shards
    assert not shards.rounded and set(shards.imports)
    for name in shards.imports:
        found = shards.codes(name, slice(None)).dequantize()
        np.testing.assert_array_equal(found, expected[f"{name}.weight"])


def test_scales_of_bfloat16_need_no_more_than_8_bits(folder):
    expected = packing.pack_folder(folder, packing.compressed, packing.ct_settings())
    tensors = load_file(folder / "model.safetensors")
    halves = {name: each for name, each in tensors.items() if name.endswith("weight_scale")}
    wide = {name: each.astype(np.float32).view(np.uint32) >> 16 for name, each in halves.items()}
    stored = {name: (each << 16).view(np.float32) for name, each in wide.items()}
    edit_weights(folder, **stored)
    shards = open_checkpoint(folder).shards
    assert {str(each) for each in shards.imports.values()} == {"int4 g32"}
    assert not shards.rounded and set(shards.imports) == {each[:-7] for each in expected}


def test_biases_of_zeros_are_left_out_and_others_are_not(folder):
    packing.pack_folder(folder, packing.gptq, GPTQ)
    edit_weights(folder, **{f"{UP}.bias": np.zeros(128, np.float16)})
    open_checkpoint(folder)
    edit_weights(folder, **{f"{UP}.bias": np.ones(128, np.float16)})
    refuse(folder, r"up_proj\.bias")


def test_int8_of_compressed_tensors_is_read_as_it_is(folder):
    def pack(weight):
        return packing.compressed(weight, weight.shape[1], 8, plain=True)

    expected = packing.pack_folder(folder, pack, CT8)
    shards = open_checkpoint(folder).shards
    for tensor, weight in expected.items():
        np.testing.assert_array_equal(shards.rows(tensor, slice(None)), weight)
        own = shards.codes(tensor[:-7], slice(None))
        np.testing.assert_array_equal(own.dequantize(), weight)
    assert {each.encoding for each in shards.imports.values()} == {"per-channel"}


def test_a_matrix_s_parts_may_lie_in_several_files(folder):
    expected = packing.pack_folder(folder, packing.gptq, GPTQ)
    whole = open_checkpoint(folder).shards.fingerprint
    shard(folder, 3)
    shards = open_checkpoint(folder).shards
    assert shards.fingerprint != whole
    for tensor, weight in expected.items():
        np.testing.assert_array_equal(shards.rows(tensor, slice(None)), weight)


@given(
    st.sampled_from([4, 8]),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_every_word_gives_back_its_integers(bits, rows, count, seed):
    random = np.random.default_rng(seed)
    integers = random.integers(0, 1 << bits, (rows, count * 32 // bits))
    packed = packing.words(integers, bits)
    np.testing.assert_array_equal(fields(packed, bits, 1), integers)
    np.testing.assert_array_equal(fields(np.ascontiguousarray(packed.T), bits, 0), integers.T)
