"""Codes go into a GGUF file and come back as they are; llama.cpp computes with them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("gguf", reason="GGUF files need the package gguf")

from slmkit.checkpoint.folder import open_checkpoint
from slmkit.checkpoint.formats.coded import codes_in, traits_of
from slmkit.checkpoint.formats.gguf import write as writing
from slmkit.checkpoint.formats.gguf.blocks import DECODERS
from slmkit.checkpoint.formats.gguf.encode import blocks, needs_minimum
from slmkit.checkpoint.formats.gguf.metadata import metadata_of
from slmkit.checkpoint.formats.gguf.write import write_gguf
from slmkit.errors import BundleError, ParityError, RefusedError
from slmkit.interpreters.reference import logits
from slmkit.parity import llama_cpp
from slmkit.parity.golden import Golden, Outputs
from slmkit.planning.codes import codes_of
from slmkit.quant.codes import Codes
from slmkit.recipe.scheme import Scheme
from slmkit.system.cache import Cache
from slmkit.system.progress import Silent
from slmkit.workflows.build import build
from slmkit.workflows.gguf import _tokens, export_gguf
from tiny_models import ort_request, tiny_config, write_checkpoint

EIGHT = Scheme(encoding="per-channel", bits=8)
SCHEMES = {
    "two-level": Scheme(encoding="group-wise", bits=4, group_size=32, scales="two-level"),
    "free": Scheme(encoding="group-wise", bits=4, group_size=32),
    "per-channel": Scheme(encoding="per-channel", bits=4),
    "groups of 64": Scheme(encoding="group-wise", bits=4, group_size=64),
    "8 bits": EIGHT,
    "groups of 8 bits": Scheme(encoding="group-wise", bits=8, group_size=32),
    "float16": Scheme(encoding="float16"),
}
GROUPS = 64  # inputs of each tiny linear are a multiple of it


def written(tmp_path, scheme, name="llama", **changes):
    """The checkpoint, its codes with an 8-bit embedding, and their file."""
    config = {**tiny_config(name), "intermediate_size": 128, **changes}
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / name, config))
    tables = checkpoint.model.looked_up
    schemes = {each: EIGHT if each in tables else scheme for each in checkpoint.model.matrices}
    codes = codes_of(checkpoint, schemes, Cache(tmp_path / "cache"), Silent())
    facts = metadata_of(checkpoint.spec, checkpoint.config)
    path = tmp_path / "codes.gguf"
    write_gguf(path, checkpoint.model, facts, codes, _tokens(checkpoint), lambda done: None)
    return checkpoint, codes, path


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_codes_come_back_as_they_are(tmp_path, scheme):
    checkpoint, codes, path = written(tmp_path, scheme)
    found = open_checkpoint(path)
    for tensor, weight in checkpoint.model.weights.items():
        if len(weight.shape) == 1:
            np.testing.assert_array_equal(found.shards.vector(tensor), codes.vector(tensor))
            continue
        rows = slice(None)
        np.testing.assert_array_equal(found.shards.rows(tensor, rows), codes.rows(tensor, rows))
        if codes.schemes[weight.name].bits:
            own = found.shards.imports[weight.name]
            assert own.scales == "free" and own.symmetric  # 8 bits of scale: every artifact


ASYMMETRIC = Scheme(encoding="group-wise", bits=4, group_size=32, symmetric=False)


@pytest.mark.parametrize("zeros", [(0, 16), (7, 9)], ids=["any", "7 or 8"])
def test_zero_points_come_back(zeros):
    random = np.random.default_rng(1)
    scales = np.exp2(random.integers(-8, -2, (4, 3))).astype(np.float32)
    integers = random.integers(0, 16, (4, 96), np.uint8)
    codes = Codes(
        ASYMMETRIC, 96, integers, scales, random.integers(zeros[0], zeros[1], (4, 3), np.uint8)
    )
    kind = "Q4_1" if needs_minimum(codes) else "Q4_0"
    assert kind == ("Q4_0" if zeros == (7, 9) else "Q4_1")
    raw = blocks("x", kind, codes).reshape(4, 3, -1)
    coded = DECODERS[kind](raw)
    scheme = traits_of(coded).scheme(4, 32)
    assert scheme is not None
    np.testing.assert_array_equal(
        codes_in(coded, scheme, codes.width).dequantize(), codes.dequantize()
    )


def test_minimums_beyond_float16_are_refused(tmp_path):
    with pytest.raises(RefusedError, match="float16 does not hold the scales or minimums"):
        written(tmp_path, ASYMMETRIC)


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        (Scheme(encoding="palette", bits=4, group_rows=16), "no palettes"),
        (
            Scheme(encoding="group-wise", bits=8, group_size=32, symmetric=False),
            "no 8-bit codes with zero points",
        ),
    ],
)
def test_what_gguf_does_not_hold_is_refused_by_name(tmp_path, scheme, reason):
    with pytest.raises(RefusedError, match=reason):
        written(tmp_path, scheme)


def test_rows_of_no_whole_blocks_are_refused(tmp_path):
    with pytest.raises(RefusedError, match="has 100"):
        written(tmp_path, SCHEMES["free"], intermediate_size=100)


def golden_of(codes, spec):
    """The reference's answers on some ids, as a bundle keeps them."""
    ids = np.random.default_rng(2).integers(3, 290, 40)
    (found,) = logits(codes, spec, [ids])
    wide = found.astype(np.float64)
    norm = np.log(np.exp(wide - wide.max(axis=1, keepdims=True)).sum(axis=1)) + wide.max(axis=1)
    columns = np.arange(spec.vocabulary)
    outputs = Outputs(columns, found, norm, found.argmax(axis=1))
    return Golden(("ids",), 1, (ids,), (len(ids),), outputs)


def letter(checkpoint):
    return checkpoint.tokenizer.encode("e", special=False)[0]


@pytest.mark.skipif(not llama_cpp.is_installed(), reason="llama.cpp: needs xllamacpp")
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma"])
@pytest.mark.parametrize("scheme", ["two-level", "float16"])
def test_llama_cpp_computes_the_same_model(tmp_path, scheme, name):
    checkpoint, codes, path = written(tmp_path, SCHEMES[scheme], name)
    golden = golden_of(codes, checkpoint.spec)
    vocabulary = checkpoint.spec.vocabulary
    found = llama_cpp.compare_llama_cpp(path, golden, vocabulary, letter(checkpoint), Silent())
    found.check()
    assert found.positions == 40 and found.top1 >= 0.8


@pytest.mark.skipif(not llama_cpp.is_installed(), reason="llama.cpp: needs xllamacpp")
def test_rows_in_the_wrong_order_are_found_by_llama_cpp(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_order", lambda rows, heads: None)
    checkpoint, codes, path = written(tmp_path, SCHEMES["float16"])
    golden = golden_of(codes, checkpoint.spec)
    vocabulary = checkpoint.spec.vocabulary
    found = llama_cpp.compare_llama_cpp(path, golden, vocabulary, letter(checkpoint), Silent())
    with pytest.raises(ParityError, match="another model"):
        found.check()


@pytest.mark.skipif(not llama_cpp.is_installed(), reason="llama.cpp: needs xllamacpp")
def test_a_bundle_is_exported_and_proved(tmp_path):
    pytest.importorskip("onnxruntime", reason="a bundle needs a backend")
    config = {**tiny_config("llama"), "intermediate_size": 128}
    model = write_checkpoint(tmp_path / "tiny", config)
    bundle = build(ort_request(model, "int4", tmp_path / "out"), Silent())
    place = tmp_path / "gguf"
    found = export_gguf(bundle.folder, model, place, cache=tmp_path / "cache")
    assert found.parity is not None and found.parity.top1 >= 0.8
    assert sorted(each.name for each in place.iterdir()) == ["slmkit-export.json", found.file]
    again = open_checkpoint(place / found.file)
    assert set(again.shards.imports) == set(again.model.matrices)
    with pytest.raises(BundleError, match="exists"):
        export_gguf(bundle.folder, model, place, cache=tmp_path / "cache")
    other = write_checkpoint(tmp_path / "other", config, seed=1)
    with pytest.raises(BundleError, match="not the checkpoint"):
        export_gguf(bundle.folder, other, place, force=True, cache=tmp_path / "cache")
