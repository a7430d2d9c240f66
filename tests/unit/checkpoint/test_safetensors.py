"""The reader and the writer against the public safetensors library; every lie is refused."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors import safe_open

from slmkit.checkpoint.safetensors import SafetensorsFile, SafetensorsWriter, row_blocks
from slmkit.errors import CheckpointError

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda name: name != "__metadata__"
)
DTYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "U8": np.uint8}
ARRAYS = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda kind: arrays(DTYPES[kind], array_shapes(max_dims=3, max_side=5))
)
TENSORS = st.dictionaries(NAMES, ARRAYS, min_size=1, max_size=5)
PLAIN: dict[str, np.ndarray] = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.ones(4, np.float16),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@given(TENSORS)
def test_files_of_the_public_library_are_read_alike(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    safetensors.numpy.save_file(tensors, path)
    file = SafetensorsFile(path)
    assert set(file.entries) == set(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(file.array(name), array)


@given(TENSORS)
def test_our_files_are_read_by_the_public_library(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    kinds = {np.dtype(dtype): kind for kind, dtype in DTYPES.items()}
    layout = {name: (kinds[array.dtype], array.shape) for name, array in tensors.items()}
    with SafetensorsWriter(path, layout, {"made": "here"}) as writer:
        for name, array in tensors.items():
            for first in range(len(array)):
                writer.put(name, array[first : first + 1], first)
    with safe_open(path, "np") as file:
        assert file.metadata() == {"made": "here"}
        for name, array in tensors.items():
            np.testing.assert_array_equal(file.get_tensor(name), array)


@given(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=20))
def test_bfloat16_is_the_upper_half_of_float32(tmp_path_factory, halves):
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    path.write_bytes(
        raw(
            {"x": entry("BF16", (len(halves),), (0, 2 * len(halves)))},
            struct.pack(f"<{len(halves)}H", *halves),
        )
    )
    expected = struct.unpack(
        f"<{len(halves)}f", b"".join(struct.pack("<HH", 0, half) for half in halves)
    )
    np.testing.assert_array_equal(SafetensorsFile(path).floats("x"), np.array(expected, np.float32))


def test_rows_are_read_alone(path):
    safetensors.numpy.save_file(PLAIN, path)
    file = SafetensorsFile(path)
    np.testing.assert_array_equal(file.floats("b", slice(1, 2)), [[3, 4, 5]])
    np.testing.assert_array_equal(file.floats("b", np.array([1, 0, 1])), PLAIN["b"][[1, 0, 1]])
    file.forget("b")
    np.testing.assert_array_equal(file.floats("b"), PLAIN["b"])


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    safetensors.numpy.save_file(PLAIN, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: length % len(whole)])
    with pytest.raises(CheckpointError):
        SafetensorsFile(path)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_header_is_read_or_refused_and_never_more(tmp_path_factory, at, flip):
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    safetensors.numpy.save_file(PLAIN, path)
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    data[at % header] ^= flip
    path.write_bytes(data)
    try:
        file = SafetensorsFile(path)
    except CheckpointError:
        return
    for name in file.entries:
        file.array(name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is truncated"),
        (b"\x01\x02", "is truncated"),
        (struct.pack("<Q", 2**63) + b"{}", "is truncated"),
        (raw(b"{nope"), "not JSON"),
        (raw(b"[" * 100_000), "not JSON"),
        (raw([1, 2]), "not a JSON object"),
        (raw(b'{"a": 1, "a": 1}'), "occurs twice"),
        (raw({"x": entry(), "y": entry(offsets=(4, 12))}, bytes(12)), "overlaps"),
        (raw({"x": entry(), "y": entry(offsets=(0, 8))}, bytes(8)), "overlaps"),
        (raw({"x": entry(offsets=(8, 16))}, bytes(16)), "a hole of bytes"),
        (raw({"x": entry()}, bytes(12)), "belong to none"),
        (raw({"x": entry()}, bytes(4)), "is truncated: its tensors need"),
        (raw({"x": entry(shape=(3,))}, bytes(8)), r"needs 12 bytes, its offsets give 8"),
        (raw({"x": entry("F99")}, bytes(8)), "unknown type 'F99'"),
        (raw({"x": entry(["F32"])}, bytes(8)), "unknown type"),
        (raw({"x": entry(shape=(-2,))}, bytes(8)), "malformed"),
        (raw({"x": entry(shape=(True, 2))}, bytes(8)), "malformed"),
        (raw({"x": entry(shape=(2.0,))}, bytes(8)), "malformed"),
        (raw({"x": entry(offsets=(0, 4, 8))}, bytes(8)), "malformed"),
        (raw({"x": entry(offsets=(8, 0))}, bytes(8)), "needs 8 bytes"),
        (raw({"x": {"dtype": "F32"}}, bytes(8)), "malformed"),
        (raw({"x": 7}, bytes(8)), "malformed"),
        (raw({"x": entry(shape=(2**62, 2**62))}, bytes(8)), "needs"),
    ],
)
def test_a_header_that_lies_is_refused(path, content, said):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as caught:
        SafetensorsFile(path)
    assert caught.value.hint


def test_the_writer_refuses_what_does_not_fit_and_what_is_missing(path):
    with (
        pytest.raises(ValueError, match="does not fit"),
        SafetensorsWriter(path, {"x": ("F32", (2, 3))}) as writer,
    ):
        writer.put("x", np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="not written whole"):
        SafetensorsWriter(path, {"x": ("F32", (2,))}).__exit__(None, None, None)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 200))
def test_blocks_cover_every_row_once(rows, width, numbers):
    covered = [row for block in row_blocks(rows, width, numbers) for row in range(rows)[block]]
    assert covered == list(range(rows))
