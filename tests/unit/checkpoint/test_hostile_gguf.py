"""A GGUF file that lies, or is any bytes, is refused with a sentence: fast, in little memory."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("gguf", reason="GGUF files need the package gguf")

from gguf_files import write_checkpoint_as_gguf
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.checkpoint.formats.gguf.file import GgufFile
from slmkit.checkpoint.formats.gguf.header import read_header
from slmkit.errors import CheckpointError
from tiny_models import tiny_config, write_checkpoint

MOST_MEMORY = 2 << 20  # bytes, for the small files below
UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 6, 7, 8, 9, 10
LARGE = 2**62


def text(value, length=None):
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data) if length is None else length) + data


def entry(key, kind, data):
    return text(key) + struct.pack("<I", kind) + data


def tensor(name, shape, kind, offset):
    return (
        text(name)
        + struct.pack("<I", len(shape))
        + struct.pack(f"<{len(shape)}Q", *shape)
        + struct.pack("<IQ", kind, offset)
    )


def file_of(entries=(), tensors=(), counts=None, version=3, data=b""):
    counts = counts or (len(tensors), len(entries))
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join([*entries, *tensors])
    return head + bytes(-len(head) % 32) + data


ARRAYS = struct.pack("<IQ", ARRAY, 1) + struct.pack("<IQ", UINT32, 0)
CORPUS = {
    "nothing": b"",
    "another kind of file": b"PK\x03\x04" + bytes(100),
    "only the magic": b"GGUF",
    "version 1": file_of(version=1),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "more tensors than bytes": file_of(counts=(LARGE, 0)),
    "more entries than bytes": file_of(counts=(0, LARGE)),
    "a few entries that are not there": file_of(counts=(0, 60000)),
    "a long key": file_of([text("k", LARGE)]),
    "a long string": file_of([entry("k", STRING, text("v", LARGE))]),
    "no UTF-8": file_of([entry("k", STRING, text(b"\xff\xfe"))]),
    "an unknown type": file_of([entry("k", 99, b"1234")]),
    "arrays in an array": file_of([entry("k", ARRAY, ARRAYS)]),
    "an array of unknown type": file_of([entry("k", ARRAY, struct.pack("<IQ", 77, 4))]),
    "a long array": file_of([entry("k", ARRAY, struct.pack("<IQ", UINT64, LARGE))]),
    "a long array of strings": file_of([entry("k", ARRAY, struct.pack("<IQ", STRING, LARGE))]),
    "a long array of bytes": file_of([entry("k", ARRAY, struct.pack("<IQ", 0, 1 << 25))]),
    "a key twice": file_of([entry("k", UINT32, bytes(4))] * 2),
    "an alignment of zero": file_of([entry("general.alignment", UINT32, bytes(4))]),
    "an alignment of 24": file_of([entry("general.alignment", UINT32, struct.pack("<I", 24))]),
    "an alignment that is text": file_of([entry("general.alignment", STRING, text("32"))]),
    "five dimensions": file_of(tensors=[tensor("t", [1] * 5, 0, 0)]),
    "no dimension": file_of(tensors=[tensor("t", [], 0, 0)]),
    "a size of zero": file_of(tensors=[tensor("t", [0, 4], 0, 0)]),
    "a product that overflows": file_of(tensors=[tensor("t", [2**32, 2**32], 0, 0)]),
    "an unknown tensor type": file_of(tensors=[tensor("t", [32], 4242, 0)], data=bytes(200)),
    "half a block": file_of(tensors=[tensor("t", [31], 2, 0)], data=bytes(200)),
    "beyond the end": file_of(tensors=[tensor("t", [32], 0, 2**40)], data=bytes(200)),
    "an offset that wraps": file_of(tensors=[tensor("t", [32], 0, 2**64 - 32)], data=bytes(200)),
    "a tensor twice": file_of(tensors=[tensor("t", [8], 0, 0)] * 2, data=bytes(200)),
    "tensors over each other": file_of(
        tensors=[tensor("a", [16], 0, 0), tensor("b", [16], 0, 32)], data=bytes(200)
    ),
}


@pytest.mark.parametrize("data", CORPUS.values(), ids=CORPUS)
def test_a_file_that_lies_is_refused_in_little_memory(tmp_path, data):
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as refused:
            GgufFile(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEMORY
    assert "x.gguf" in refused.value.message and refused.value.hint


@given(st.binary(max_size=300))
def test_any_bytes_after_the_magic_are_read_or_refused(data):
    whole = b"GGUF\x03\0\0\0" + data
    try:
        header = read_header(lambda size: whole, "x.gguf")
    except CheckpointError:
        return
    assert header.data >= 24


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.one_of(st.integers(0, 2**32 - 1), st.booleans(), st.text(max_size=9)),
        max_size=5,
    )
)
def test_metadata_comes_back_as_it_was_written(values):
    def written(key, value):
        if isinstance(value, bool):
            return entry(key, BOOL, bytes([value]))
        if isinstance(value, int):
            return entry(key, UINT32, struct.pack("<I", value))
        return entry(key, STRING, text(value))

    values.pop("general.alignment", None)
    data = file_of([written(key, value) for key, value in values.items()])
    assert read_header(lambda size: data, "x.gguf").metadata == values


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A whole file of a tiny model, and how long its header is."""
    folder = tmp_path_factory.mktemp("hostile")
    write_checkpoint(folder / "llama", tiny_config("llama"))
    write_checkpoint_as_gguf(folder / "llama", folder / "llama.gguf", "Q4_0")
    return folder / "llama.gguf"


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_model_with_changed_bytes_is_opened_or_refused(model, tmp_path, data):
    raw = bytearray(model.read_bytes())
    header = GgufFile(model).header.data
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(8, header - 1))
        raw[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "changed.gguf"
    path.write_bytes(raw)
    try:
        found = open_checkpoint(path)
        for tensor_, weight in list(found.model.weights.items())[:4]:
            if len(weight.shape) == 2:
                assert np.isfinite(found.shards.rows(tensor_, slice(0, 2))).all()
    except CheckpointError as error:
        assert error.message


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(model, tmp_path, share):
    raw = model.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(CheckpointError, match=r"truncated|ends after"):
        open_checkpoint(path)


def test_scales_that_are_no_numbers_are_refused(model, tmp_path):
    raw = bytearray(model.read_bytes())
    file = GgufFile(model)
    start = file.raw["blk.0.attn_v.weight"].start
    raw[start : start + 2] = b"\x00\x7e"  # float16 NaN
    path = tmp_path / "nan.gguf"
    path.write_bytes(raw)
    shards = open_checkpoint(path).shards
    name = "model.layers.0.self_attn.v_proj"
    assert name not in shards.imports and "model.layers.0.mlp.up_proj" in shards.imports
    with pytest.raises(CheckpointError, match="holds NaN"):
        shards.rows(f"{name}.weight", slice(None))
