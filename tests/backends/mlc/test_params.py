"""Parameters: MLC's reading of them gives the bundle's codes, in both layouts, for every scheme."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts import SCHEMES
from mlc_artifacts import TAKEN, mlc_job
from slmkit.errors import BackendError
from slmkit.quant.codes import CodesFile, pack
from slmkit.recipe.scheme import Scheme
from slmkit_mlc.gpus import known_gpus
from slmkit_mlc.lowering.definition import definition_for, read_definition
from slmkit_mlc.options import library_name, mlc_format
from slmkit_mlc.params import K_MAJOR, N_MAJOR, Matrix
from slmkit_mlc.writer import write_params


def read_as_mlc(
    matrix: Matrix, words: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None = None
) -> np.ndarray:
    """q4f16 as mlc-llm documents it: element j of a word at bits 4 j, (n - 7) * scale."""
    if matrix.layout == K_MAJOR:
        words, scales = words.T, scales.T
        zeros = zeros.T if zeros is not None else None
    bits = matrix.scheme.bits
    assert bits
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    codes = ((words[:, :, None] >> shifts) & np.uint32((1 << bits) - 1)).reshape(len(words), -1)
    groups = np.arange(matrix.width) // matrix.group_size
    zero = matrix.zero_point if zeros is None else zeros[:, groups].astype(np.float32)
    numbers = codes[:, : matrix.width].astype(np.float32) - zero
    return numbers * scales[:, groups].astype(np.float32)


@pytest.mark.parametrize("target", ["android", "ios"])
@pytest.mark.parametrize("scheme", [*TAKEN, ""])
def test_what_mlc_reads_are_the_bundle_s_codes(tiny, tmp_path, scheme, target):
    job = mlc_job(tiny("qwen2"), tmp_path, scheme, target)
    table = definition_for(job).table
    for matrix in table.matrices.values():
        expected = np.concatenate(
            [job.codes.rows(f"{name}.weight", slice(None)) for name in matrix.sources]
        )
        stored = list(matrix.values(job.codes))
        if matrix.scheme.bits is None:
            got = stored[0].T if matrix.layout == K_MAJOR else stored[0]
        else:
            got = read_as_mlc(matrix, *stored)
        np.testing.assert_array_equal(got.astype(np.float32), expected)


class OneWeight(CodesFile):
    """A codes file that holds one weight."""

    def __init__(self, codes: np.ndarray, scales: np.ndarray, bits: int) -> None:
        self._packed, self._scales = pack(codes, bits), scales

    def packed(self, name: str) -> np.ndarray:
        return self._packed

    def scales(self, name: str, rows: object = None) -> np.ndarray:
        return self._scales


@given(
    rows=st.integers(1, 9),
    groups=st.integers(1, 4),
    missing=st.integers(0, 31),
    bits=st.sampled_from([4, 8]),
    layout=st.sampled_from([N_MAJOR, K_MAJOR]),
    seed=st.integers(0, 2**32 - 1),
)
def test_words_hold_every_code_whatever_the_size(rows, groups, missing, bits, layout, seed):
    random, scheme = (
        np.random.default_rng(seed),
        Scheme(encoding="group-wise", bits=bits, group_size=32),
    )
    codes = random.integers(0, 1 << bits, (rows, groups * 32)).astype(np.uint8)
    scales = random.integers(1, 256, (rows, groups)).astype(np.float32) / 256
    width = groups * 32 - missing
    matrix = Matrix("w", ("w",), rows, width, scheme, layout)
    stored = list(matrix.values(OneWeight(codes, scales, bits)))
    assert [each.shape for each in stored] == [param.shape for param in matrix.params]
    signed = codes.astype(np.float32) - (1 << (bits - 1))
    expected = (signed * np.repeat(scales, 32, axis=1))[:, :width]
    np.testing.assert_array_equal(read_as_mlc(matrix, *stored), expected)


@given(
    significand=st.integers(8, 15),
    exponent=st.integers(-14, 4),
    multiplier=st.integers(1, 16),
    code=st.integers(-8, 7),
)
def test_two_level_scales_fold_into_float16_without_loss(significand, exponent, multiplier, code):
    """A channel scale has 4 significant bits, a multiplier at most 5, a code of 4 bits at most 3:
    float16 holds the scale, and its product with the code, exactly."""
    channel = significand * 2.0**exponent / 8
    scale = channel * multiplier
    assert float(np.float16(scale)) == scale
    assert float(np.float16(scale) * np.float16(code)) == scale * code


def test_a_scale_that_float16_cannot_hold_is_refused():
    scheme = Scheme(encoding="group-wise", bits=4, group_size=32)
    matrix = Matrix("w", ("w",), 1, 32, scheme, N_MAJOR)
    weight = OneWeight(np.zeros((1, 32), np.uint8), np.array([[1 / 3]], np.float32), 4)
    with pytest.raises(BackendError, match="scales of w are not exact"):
        list(matrix.values(weight))


def test_names_and_shapes_are_mlc_s(tiny, tmp_path):
    params = {
        param.name: param.shape
        for param in definition_for(mlc_job(tiny("qwen2"), tmp_path, "int4-g32")).table.params
    }
    layer = "model.layers.0."
    assert params[layer + "self_attn.qkv_proj.q_weight"] == (8, 128)  # K-major: [K / 8, N]
    assert params[layer + "self_attn.qkv_proj.bias"] == (128,)
    assert params[layer + "mlp.gate_up_proj.q_scale"] == (2, 192)
    assert params["model.embed_tokens.q_weight"] == (320, 8)  # rows are looked up
    assert layer + "input_layernorm.weight" in params
    assert not any("lm_head" in name or "q_proj" in name for name in params)


def test_linears_of_other_schemes_are_not_joined(tiny, tmp_path):
    job = mlc_job(tiny("llama"), tmp_path, "int4-g32")
    schemes = {**job.codes.schemes, "model.layers.0.self_attn.v_proj": Scheme(encoding="float16")}
    from slmkit_mlc.params import table_of

    table = table_of(job.model, schemes, N_MAJOR)
    assert "model.layers.0.self_attn.v_proj" in table.matrices
    assert table.matrices["model.layers.1.self_attn.q_proj"].name.endswith("qkv_proj")


def test_the_files_hold_the_parameters_and_mlc_s_loader_reads_them(tiny, tmp_path):
    import tvm

    from slmkit_mlc.verify.machine import load_params

    job = mlc_job(tiny("llama"), tmp_path)
    definition = definition_for(job)
    write_params(definition, job, tmp_path / "params")
    records = json.loads((tmp_path / "params" / "tensor-cache.json").read_text())
    names = [each["name"] for shard in records["records"] for each in shard["records"]]
    assert names == [param.name for param in definition.table.params]
    loaded = load_params(tmp_path / "params", definition, tvm.cpu())
    for (_, expected), got in zip(definition.table.values(job.codes), loaded, strict=True):
        np.testing.assert_array_equal(got.numpy(), expected)


def test_a_definition_survives_its_file(tiny, tmp_path):
    definition = definition_for(mlc_job(tiny("llama-3.2"), tmp_path))
    definition.write(tmp_path)
    assert read_definition(tmp_path) == definition


@pytest.mark.parametrize(
    ("schemes", "layout", "expected"),
    [
        (["int4-g32"], K_MAJOR, "q4f16_0"),
        (["int4-free-g32"], N_MAJOR, "q4f16_1"),
        (["float16"], N_MAJOR, "q0f16"),
        (["int4-g32", "int8-per-channel"], N_MAJOR, None),
        (["int4-uneven-g32"], N_MAJOR, None),
    ],
)
def test_formats_have_mlc_s_name_where_it_has_one(schemes, layout, expected):
    found = {str(at): Scheme.model_validate(SCHEMES[name]) for at, name in enumerate(schemes)}
    assert mlc_format(found, layout) == expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("home", "home-q4f16_0-adreno"),
        ("Qwen2.5-0.5B", "Qwen2_5_0_5B-q4f16_0-adreno"),
        ("1.5B", "slmkit-1_5B-q4f16_0-adreno"),
    ],
)
def test_library_names_can_be_prefixes_of_c_names(model, expected):
    assert library_name(model, "q4f16_0", known_gpus()["adreno"]) == expected


def test_gpus_of_a_platform_share_one_layout():
    layouts = {(gpu.platform, gpu.layout) for gpu in known_gpus().values()}
    assert len(layouts) == len({platform for platform, _ in layouts})
    assert all(gpu.target["max_threads_per_block"] >= 256 for gpu in known_gpus().values())
