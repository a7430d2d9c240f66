"""Codes survive packing and the file; padding is zero; every scheme, every width."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slmkit.checkpoint.formats.weights import open_weights
from slmkit.checkpoint.safetensors import SafetensorsFile, SafetensorsWriter
from slmkit.checkpoint.shards import Shards
from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import Weight
from slmkit.quant import quantize as quantizing
from slmkit.quant.codes import CodesFile, pack, padded_width, unpack, zero_point
from slmkit.quant.files import stored_bytes
from slmkit.quant.quantize import quantize, quantize_rows
from slmkit.recipe.scheme import Scheme
from slmkit.snr import EXACT_DB

SCHEMES = {
    "int4": Scheme(encoding="group-wise", bits=4, group_size=32, scales="two-level"),
    **{
        f"int{bits}-g{group}{'' if symmetric else '-asymmetric'}": Scheme(
            encoding="group-wise", bits=bits, group_size=group, symmetric=symmetric
        )
        for bits in (4, 8)
        for group in (32, 64, 128)
        for symmetric in (True, False)
    },
    "int4-per-channel": Scheme(encoding="per-channel", bits=4),
    "int8-per-channel": Scheme(encoding="per-channel", bits=8),
    "int8-absmax": Scheme(encoding="per-channel", bits=8, method="absmax"),
    "float16": Scheme(encoding="float16"),
    **{
        f"lut{bits}-g{rows}": Scheme(encoding="palette", bits=bits, group_rows=rows)
        for bits in (3, 4, 6)
        for rows in (8, 16, 32)
    },
}
PALETTES = {name: scheme for name, scheme in SCHEMES.items() if scheme.encoding == "palette"}
SCALED = {name: each for name, each in SCHEMES.items() if each.bits and name not in PALETTES}
NAME = "model.layers.0.mlp.down_proj"


def to_file(folder, floats, scheme):
    """Quantize a checkpoint of one matrix and one vector; the codes file."""
    layout = {f"{NAME}.weight": ("F32", floats.shape), "norm.weight": ("F32", (3,))}
    with SafetensorsWriter(folder / "model.safetensors", layout) as writer:
        writer.put(f"{NAME}.weight", floats)
        writer.put("norm.weight", np.arange(3, dtype=np.float32))
    weights = {
        f"{NAME}.weight": Weight(NAME, "linear", floats.shape),
        "norm.weight": Weight("norm", "norm", (3,)),
    }
    path = folder / "codes.safetensors"
    shards = Shards(open_weights(folder))
    snr = quantize(shards, weights, {NAME: scheme}, path, "key", lambda done: None)
    return CodesFile(path), snr[NAME]


def random(rows, width, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, width), dtype=np.float32)


@given(st.data(), st.sampled_from([3, 4, 6, 8]))
def test_packing_is_undone_by_unpacking(data, bits):
    shape = (data.draw(st.integers(1, 5)), 8 * data.draw(st.integers(1, 20)))
    codes = data.draw(arrays(np.uint8, shape, elements=st.integers(0, (1 << bits) - 1)))
    packed = pack(codes, bits)
    assert packed.nbytes == codes.size * bits // 8
    np.testing.assert_array_equal(unpack(packed, bits), codes)


def test_the_low_nibble_comes_first():
    assert pack(np.array([[1, 2, 15, 0]], np.uint8), 4).tolist() == [[0x21, 0x0F]]


@given(arrays(np.uint8, (2, 8), elements=st.integers(0, 63)), st.sampled_from([3, 6]))
def test_codes_lie_one_after_the_other_from_the_lowest_bit_on(codes, bits):
    codes &= (1 << bits) - 1
    stream = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    expected = np.packbits(stream.reshape(2, -1), axis=-1, bitorder="little")
    np.testing.assert_array_equal(pack(codes, bits), expected)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 31), (2, 32), (5, 33), (4, 172), (2, 256)])
def test_codes_survive_the_file_exactly(tmp_path, scheme, rows, width):
    floats = random(rows, width)
    codes, _ = to_file(tmp_path, floats, SCHEMES[scheme])
    memory, _ = quantize_rows(NAME, floats, SCHEMES[scheme])
    for name, array in memory.items():
        np.testing.assert_array_equal(codes.file.array(name), array)
    whole = codes.rows(f"{NAME}.weight", slice(None))
    assert whole.shape == (rows, width)
    blocks = np.concatenate([block for _, block in codes.blocks(f"{NAME}.weight")])
    np.testing.assert_array_equal(blocks, whole)
    np.testing.assert_array_equal(codes.rows(f"{NAME}.weight", np.array([0])), whole[:1])
    np.testing.assert_array_equal(codes.vector("norm.weight"), [0, 1, 2])
    assert codes.schemes[NAME] == SCHEMES[scheme]
    assert codes.key == "key"


@pytest.mark.parametrize("scheme", SCALED)
@pytest.mark.parametrize("width", [1, 33, 100])
def test_padding_is_exactly_zero(tmp_path, scheme, width):
    codes = to_file(tmp_path, random(4, width), SCHEMES[scheme])[0].codes(NAME)
    assert codes.codes.shape[1] == padded_width(SCHEMES[scheme], width)
    groups = codes.codes.shape[1] // codes.scales.shape[1]
    zeros = np.repeat(codes.zero_points, groups, axis=1)
    np.testing.assert_array_equal(codes.codes[:, width:], zeros[:, width:])


@pytest.mark.parametrize("scheme", SCALED)
def test_the_error_is_at_most_half_a_step_where_nothing_clips(tmp_path, scheme):
    floats = random(6, 128)
    codes = to_file(tmp_path, floats, SCHEMES[scheme])[0].codes(NAME)
    group = codes.codes.shape[1] // codes.scales.shape[1]
    step = np.repeat(codes.scales, group, axis=1)[:, :128]
    bits = SCHEMES[scheme].bits
    assert bits
    most = (1 << bits) - 1
    inside = (codes.codes[:, :128] > 0) & (codes.codes[:, :128] < most)
    error = np.abs(codes.dequantize() - floats)
    assert (error[inside] <= 0.5001 * step[inside]).all()


def test_signed_codes_are_around_zero(tmp_path):
    codes = to_file(tmp_path, random(4, 64), SCHEMES["int4"])[0].codes(NAME)
    assert codes.signed.min() == -8
    assert codes.signed.max() == 7
    np.testing.assert_array_equal(codes.signed.astype(int) + zero_point(codes.scheme), codes.codes)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_codes_do_not_depend_on_the_block_size(tmp_path, scheme, monkeypatch):
    floats = random(300, 64)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    to_file(tmp_path / "a", floats, SCHEMES[scheme])
    monkeypatch.setattr(quantizing, "BLOCK", 1)
    to_file(tmp_path / "b", floats, SCHEMES[scheme])
    first, second = ((tmp_path / name / "codes.safetensors").read_bytes() for name in "ab")
    assert first == second


def test_a_weight_that_its_scheme_loses_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=rf"{NAME}.weight is lost in int4"):
        to_file(tmp_path, random(4, 64) * np.float32(1e-6), SCHEMES["int4"])


def test_a_weight_beyond_float16_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=rf"{NAME}.weight holds 70000, beyond float16"):
        to_file(tmp_path, np.full((2, 2), 70000, np.float32), SCHEMES["float16"])


def test_nan_is_refused_by_name_and_no_file_of_codes_is_trusted(tmp_path):
    floats = random(4, 64)
    floats[2, 3] = np.nan
    with pytest.raises(CheckpointError, match=rf"tensor {NAME}.weight holds NaN"):
        to_file(tmp_path, floats, SCHEMES["int4"])


@pytest.mark.parametrize("scheme", [*SCALED, *PALETTES])
def test_zeros_stay_zeros(tmp_path, scheme):
    codes, snr = to_file(tmp_path, np.zeros((2, 64), np.float32), SCHEMES[scheme])
    assert not codes.rows(f"{NAME}.weight", slice(None)).any()
    assert snr == EXACT_DB


def test_the_file_is_as_small_as_its_codes(tmp_path):
    codes, _ = to_file(tmp_path, random(64, 256), SCHEMES["int4"])
    matrix = {name: entry for name, entry in codes.file.entries.items() if NAME in name}
    size = sum(entry.stop - entry.start for entry in matrix.values())
    assert size == 64 * 256 // 2 + 64 * 2 + 64 * 256 // 32  # codes, channel scales, multipliers
    weight = Weight(NAME, "linear", (64, 256))
    assert stored_bytes(weight, SCHEMES["int4"]) == size
    assert isinstance(codes.file, SafetensorsFile)
