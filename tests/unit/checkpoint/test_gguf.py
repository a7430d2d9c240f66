"""A GGUF file is the model that it was made of: facts, numbers, codes, tokenizer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

gguf = pytest.importorskip("gguf", reason="GGUF files need the package gguf")

from gguf_files import write_checkpoint_as_gguf  # noqa: E402
from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint  # noqa: E402
from slmkit.checkpoint.formats.coded import codes_in, traits_of  # noqa: E402
from slmkit.checkpoint.formats.gguf.blocks import DECODERS  # noqa: E402
from slmkit.checkpoint.formats.gguf.metadata import WRITERS  # noqa: E402
from slmkit.checkpoint.formats.gguf.unpack import unpacked  # noqa: E402
from slmkit.cli.main import main  # noqa: E402
from slmkit.errors import CheckpointError  # noqa: E402
from tiny_models import tiny_config, write_checkpoint  # noqa: E402

GEMMA3 = {
    "num_hidden_layers": 7,
    "sliding_window_pattern": None,
    "query_pre_attn_scalar": 32,
}
MODELS: dict[
    str, dict[str, Any]
] = {  # tiny models, with the facts that GGUF has no key for as llama.cpp fixes them
    "gemma": {},
    "gemma2": {"query_pre_attn_scalar": 32},
    "gemma3": GEMMA3,
    "granite": {},
    "llama": {},
    "llama-3.2": {},
    "llama-biases": {},
    "llama-narrow-heads": {},
    "llama-tied": {},
    "olmoe": {},
    "phi3": {"sliding_window": None},
    "phi3-long": {},
    "qwen2": {},
    "qwen2-moe": {},
    "qwen3": {},
    "qwen3-moe": {"mlp_only_layers": []},
    "smollm3": {"num_hidden_layers": 5, "no_rope_layers": None, "no_rope_layer_interval": 4},
}
CODED = {"Q4_0": 4, "Q5_0": 8, "Q8_0": 8}  # types with codes in our form, and their bits
TYPES = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]  # that the package writes
RANDOM = np.random.default_rng(4)


@pytest.fixture
def pair(tmp_path):
    """A tiny model as a folder and as a GGUF file, both opened."""

    def make(name, kind="F32", **changes):
        config = {**tiny_config(name), **changes}
        config = {key: value for key, value in config.items() if value is not None}
        folder = write_checkpoint(tmp_path / name, config)
        original = write_checkpoint_as_gguf(folder, tmp_path / f"{name}.gguf", kind)
        return original, open_checkpoint(tmp_path / f"{name}.gguf")

    return make


def values(checkpoint, name):
    weight = checkpoint.model.weights[name]
    if len(weight.shape) == 1:
        return checkpoint.shards.vector(name)
    return checkpoint.shards.rows(name, slice(None))


def test_every_architecture_that_is_written_is_tried():
    tried = {tiny_config(name)["model_type"] for name in MODELS}
    assert tried == set(WRITERS) - {"mistral"}  # which is llama's in GGUF


@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_floats_is_the_same_model(pair, name):
    original, found = pair(name, **MODELS[name])
    spec, expected = found.spec, original.spec
    assert np.allclose(spec.rope.frequencies, expected.rope.frequencies, rtol=1e-6)
    assert spec.at_context(64).windows == expected.at_context(64).windows
    fields = set(spec.__dataclass_fields__) - {"rope", "long_rope"}
    assert {each: getattr(spec, each) for each in fields} == {
        each: getattr(expected, each) for each in fields
    }
    for tensor in original.model.weights:
        np.testing.assert_array_equal(values(found, tensor), values(original, tensor), tensor)


@pytest.mark.parametrize("kind", TYPES)
def test_quantized_tensors_are_what_the_package_dequantizes(pair, kind):
    original, found = pair("llama", kind)
    number = gguf.GGMLQuantizationType[kind]
    for tensor, weight in original.model.weights.items():
        if len(weight.shape) == 2 and weight.shape[1] % 32 == 0:
            stored = gguf.quants.quantize(values(original, tensor), number)
            expected = gguf.quants.dequantize(stored, number)
            np.testing.assert_array_equal(values(found, tensor), expected, tensor)


@pytest.mark.parametrize("kind", CODED)
def test_codes_are_exactly_the_numbers(pair, kind):
    _, found = pair("llama", kind)
    assert set(found.shards.imports) == set(found.model.matrices)
    for name, scheme in found.shards.imports.items():
        assert (scheme.bits, scheme.group_size, scheme.method) == (CODED[kind], 32, "imported")
        codes = found.shards.codes(name, slice(3, 60))
        expected = found.shards.rows(f"{name}.weight", slice(3, 60))
        np.testing.assert_array_equal(codes.dequantize(), expected)


def test_minimums_that_are_no_whole_zero_points_have_no_codes(pair):
    _, found = pair("llama", "Q4_1")
    assert found.shards.imports == {}


def test_scales_of_a_checkpoint_in_bfloat16_have_eight_bits(pair, tmp_path):
    folder = write_checkpoint(tmp_path / "plain", tiny_config("llama"))
    path = folder / "model.safetensors"
    import safetensors.numpy

    tensors = safetensors.numpy.load_file(path)
    rounded = {
        name: (each.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
        for name, each in tensors.items()
    }
    safetensors.numpy.save_file(rounded, path)
    write_checkpoint_as_gguf(folder, tmp_path / "rounded.gguf", "Q4_0")
    found = open_checkpoint(tmp_path / "rounded.gguf").shards.imports
    assert {scheme.scales for scheme in found.values()} == {"free"}


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K", "IQ4_NL"])
def test_types_that_only_llama_cpp_writes_are_read(tmp_path, kind):
    """Any bytes are blocks of them, if the scales are numbers."""
    number = gguf.GGMLQuantizationType[kind]
    numbers, size = gguf.GGML_QUANT_SIZES[number]
    raw = RANDOM.integers(0, 256, (128, 256 // numbers, size), np.uint8)
    places = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,)}[kind]
    for place in places:
        halves = RANDOM.uniform(0.01, 0.1, raw.shape[:2]).astype("<f2")
        halves *= RANDOM.choice(np.array([-1, 1], "<f2"), raw.shape[:2])
        raw[..., place : place + 2] = halves[..., None].view(np.uint8)
    raw = raw.reshape(128, -1)
    folder = write_checkpoint(
        tmp_path / "wide", {**tiny_config("llama-tied"), "hidden_size": 256, "vocab_size": 300}
    )
    original = write_checkpoint_as_gguf(
        folder, tmp_path / "wide.gguf", replaced={"blk.0.attn_v.weight": (kind, raw)}
    )
    name = "model.layers.0.self_attn.v_proj"
    assert original.model.shapes[name] == (128, 256)
    found = open_checkpoint(tmp_path / "wide.gguf")
    expected = gguf.quants.dequantize(raw, number)
    np.testing.assert_array_equal(found.shards.rows(f"{name}.weight", slice(None)), expected)
    assert (name in found.shards.imports) == (kind == "IQ4_NL")
    if kind == "IQ4_NL":
        codes = found.shards.codes(name, slice(None))
        np.testing.assert_array_equal(codes.dequantize(), expected)


def test_a_split_file_is_one_model_and_a_missing_part_is_named(tmp_path):
    folder = write_checkpoint(tmp_path / "llama", tiny_config("llama"))
    original = write_checkpoint_as_gguf(folder, tmp_path / "tiny.gguf", parts=2)
    first, second = sorted(tmp_path.glob("tiny-*.gguf"))
    found = open_checkpoint(first)
    assert found.name == "tiny"
    for tensor in original.model.weights:
        np.testing.assert_array_equal(values(found, tensor), values(original, tensor))
    second.unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.gguf is missing"):
        open_checkpoint(first)


def test_a_folder_of_one_file_is_that_file_and_of_several_is_refused(tmp_path):
    folder = write_checkpoint(tmp_path / "llama", tiny_config("llama"))
    home = tmp_path / "files"
    home.mkdir()
    write_checkpoint_as_gguf(folder, home / "one.gguf")
    assert open_checkpoint(home).name == "one"
    write_checkpoint_as_gguf(folder, home / "two.gguf")
    with pytest.raises(CheckpointError, match="several GGUF models: one, two"):
        open_checkpoint(home)


def test_the_sample_model_keeps_its_tokenizer_and_template(tmp_path):
    original = write_checkpoint_as_gguf(SAMPLE_MODEL, tmp_path / "home.gguf")
    found = open_checkpoint(tmp_path / "home.gguf")
    assert found.tokenizer.template == original.tokenizer.template
    assert found.tokenizer.special == original.tokenizer.special
    assert found.tokenizer.stop_ids == original.tokenizer.stop_ids
    for text in ("Turn off the kitchen lights!", "  12 345\n\n\tok", "<bos>a<eos>", "naïve 日本"):
        assert found.tokenizer.encode(text) == original.tokenizer.encode(text)
        assert found.tokenizer.prompt_ids(text) == original.tokenizer.prompt_ids(text)


def test_an_architecture_that_we_have_not_is_refused_by_name(tmp_path):
    folder = write_checkpoint(tmp_path / "llama", tiny_config("llama"))
    write_checkpoint_as_gguf(folder, tmp_path / "x.gguf", architecture="falcon")
    with pytest.raises(CheckpointError, match="architecture 'falcon', which is not read"):
        open_checkpoint(tmp_path / "x.gguf")


def test_llama_3s_scaling_is_recognized_by_its_factors(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = {**tiny_config("llama"), "rope_scaling": scaling, "rope_theta": 500000.0}
    folder = write_checkpoint(tmp_path / "llama", {**config, "head_dim": 64})
    write_checkpoint_as_gguf(folder, tmp_path / "x.gguf")
    found = json.loads((unpacked(tmp_path / "x.gguf") / "config.json").read_text())
    assert found["rope_scaling"] == scaling


def test_negative_scales_turn_codes_around_and_blocks_of_zeros_stay_zero():
    scales = np.array([[-0.5, 0.25, 0.0]], "<f2")
    raw = RANDOM.integers(0, 256, (1, 3, 18), np.uint8)
    raw[..., :2] = scales[..., None].view(np.uint8)
    coded = DECODERS["Q4_0"](raw)
    traits = traits_of(coded)
    assert traits.exact and not traits.symmetric and traits.eight_bits
    scheme = traits.scheme(4, 32)
    assert scheme is not None
    codes = codes_in(coded, scheme, 96)
    expected = gguf.quants.dequantize(raw.reshape(1, -1), gguf.GGMLQuantizationType.Q4_0)
    np.testing.assert_array_equal(codes.dequantize(), expected)
    assert codes.zero_points.tolist() == [[7, 8, 8]]


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="there is no file"):
        open_checkpoint(tmp_path / "none.gguf")


def test_codes_are_not_taken_where_they_are_to_be_made_anew(tiny, tmp_path):
    path = tmp_path / "coded.gguf"
    write_checkpoint_as_gguf(tiny("llama"), path, "Q4_0")
    words = ["plan", "--target", "android", "--artifacts", "ort", "--model", str(path), "--json"]

    def fates(*more):
        said = CliRunner().invoke(main, [*words, *more])
        assert said.exit_code == 0, said.output

        return {row["artifacts"]["ort"] for row in json.loads(said.stdout)["imports"]}

    assert "exact" in fates()
    assert fates("--requantize") == {"requantized"}
