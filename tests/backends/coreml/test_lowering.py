"""Tiny architectures as saved Core ML packages, evaluated, against the reference on codes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder

from artifacts import FLOAT32_FLOOR, emitted, ids_for, reference_of, run, snr_db
from coreml_artifacts import FLOAT16_FLOOR, TAKEN, blobs, check_floors, coreml_job
from slmkit.backend.registry import find_backend
from slmkit.errors import BackendError
from slmkit.recipe.scheme import Scheme
from slmkit_coreml import contract
from slmkit_coreml.lowering.ops import scale_factors
from slmkit_coreml.options import read, table_bytes, unit_sizes
from slmkit_coreml.package import WEIGHTS, read_model
from slmkit_coreml.verify.evaluator import Package
from slmkit_coreml.verify.kernels import KERNELS
from tiers import ROWS, SCHEMES, some


@pytest.mark.parametrize("scheme", some(TAKEN, "int8-g32", "lut6-g16", why=SCHEMES))
def test_every_scheme_keeps_the_floors(tiny, tmp_path, scheme):
    check_floors(coreml_job(tiny("llama-biases"), tmp_path, scheme), tmp_path / "coreml")


def test_eps_is_not_rounded_to_float16(tiny, tmp_path):
    """0.001 is 4e-7 off in float16; beside squares of 0.01 that would leave 95 dB."""
    job = coreml_job(tiny("qwen2", rms_norm_eps=1e-3), tmp_path, "int8-per-channel")
    check_floors(job, tmp_path / "coreml")


@pytest.mark.parametrize("architecture", ["llama-tied", "granite", "gemma2"])
def test_a_head_in_parts_gives_the_same_logits(tiny, tmp_path, monkeypatch, architecture):
    """Whatever comes after it: a scale, a soft cap."""
    job = coreml_job(tiny(architecture), tmp_path)
    whole = emitted(job, tmp_path / "whole")
    monkeypatch.setattr(contract, "HEAD_ROWS", 128)
    parted = emitted(job, tmp_path / "parted")
    assert (whole.facts["logits"], parted.facts["logits"]) == (1, 3)
    assert [each.shape[1] for each in parted.outputs[:3]] == [128, 128, 64]
    np.testing.assert_allclose(
        run(tmp_path / "parted", parted, "float32", job),
        run(tmp_path / "whole", whole, "float32", job),
        rtol=1e-5,
        atol=1e-5,
    )


FORMS = [
    {"layout": layout, "kv_cache": cache, "self_contained": whole}
    for layout in ("ane", "gpu")
    for cache in contract.CACHES
    for whole in (False, True)
]
FEW = (FORMS[0], FORMS[3], FORMS[-1])


def joined(options: dict[str, Any]) -> str:
    """A form's name."""
    return "-".join(map(str, options.values()))


@pytest.mark.parametrize("options", some(FORMS, *FEW, why=SCHEMES), ids=joined)
@pytest.mark.parametrize("architecture", some(["qwen3", "mistral-window"], "qwen3", why=ROWS))
def test_every_form_gives_the_same_logits(tiny, tmp_path, architecture, options):
    job = coreml_job(tiny(architecture), tmp_path, **options)
    artifact, expected = emitted(job, tmp_path / "form"), reference_of(job)
    assert snr_db(expected, run(tmp_path / "form", artifact, "float32", job)) > FLOAT32_FLOOR
    assert snr_db(expected, run(tmp_path / "form", artifact, "float16", job)) > FLOAT16_FLOOR
    outputs = {each.name for each in artifact.outputs}
    assert ("new_keys" in outputs) == (options["kv_cache"] == "io")
    assert ("embedding" in artifact.facts) == (not options["self_contained"])
    assert bool(artifact.facts["residency"]) == (options["layout"] == "ane")


@pytest.mark.parametrize("scheme", some(TAKEN, "int8-g32", "lut6-g16", why=SCHEMES))
def test_the_gpu_layout_carries_every_scheme(tiny, tmp_path, scheme):
    job = coreml_job(tiny("llama-biases"), tmp_path, scheme, layout="gpu")
    check_floors(job, tmp_path / "gpu")


FIVE_LAYERS: dict[str, dict[str, Any]] = {
    "llama": {},
    "lfm2": {"layer_types": ["conv", "conv", "full_attention", "conv", "full_attention"]},
}


CHUNKED: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"self_contained": False}),
    ("llama", {"layout": "gpu"}),
    ("lfm2", {}),  # the first chunk attends nowhere
    ("lfm2", {"self_contained": False}),
    ("lfm2", {"layout": "gpu"}),
]


@pytest.mark.parametrize(
    ("architecture", "options"),
    some(CHUNKED, ("lfm2", {}), why=SCHEMES),
    ids=str,
)
def test_chunks_of_whole_layers_give_the_same_logits(tiny, tmp_path, architecture, options):
    folder = tiny(architecture, num_hidden_layers=5, **FIVE_LAYERS[architecture])
    job = coreml_job(folder, tmp_path, "lut4-g16")
    sizes = unit_sizes(job.model, job.codes.schemes, read(options))
    limit = max(sizes) * 2 + table_bytes(job.model, job.context_length)
    chunked = dataclasses.replace(job, options={**options, "chunk_limit": limit})
    artifact = emitted(chunked, tmp_path / "chunks")
    packages = artifact.facts["packages"]
    assert [each["layers"] for each in packages][-1] == 0  # the head
    assert sum(each["layers"] for each in packages) == 5
    layers = [layer for each in packages for layer in each["attention_layers"]]
    assert tuple(layers) == artifact.state.attention_layers == job.model.attention_layers
    assert len(packages) >= 3
    for each in packages:
        weights = tmp_path / "chunks" / each["package"] / WEIGHTS / "weight.bin"
        assert weights.stat().st_size == each["weights"] <= limit
    got = run(tmp_path / "chunks", artifact, "float32", chunked)
    assert snr_db(reference_of(job), got) > FLOAT32_FLOOR
    assert "hands the hidden state from package to package" in artifact.facts["host"]


def test_a_layer_above_the_chunk_limit_is_refused(tiny, tmp_path):
    job = coreml_job(tiny("llama"), tmp_path)
    found = find_backend("coreml").problems(job.model, job.codes.schemes, {"chunk_limit": 1000})
    assert len(found) == 3
    assert "coreml: layer 0 has" in found[0]


@pytest.mark.parametrize("rows", [300, 329])
@pytest.mark.parametrize("layout", ["ane", "gpu"])
def test_a_vocabulary_that_no_group_of_rows_divides(tiny, tmp_path, rows, layout):
    job = coreml_job(tiny("llama-tied", vocab_size=rows), tmp_path, "lut4-g16", layout=layout)
    check_floors(job, tmp_path / "coreml")


def test_the_findings_of_the_cache_forms(tiny, tmp_path):
    rules = {}
    for cache in contract.CACHES:
        folder = tiny("llama")
        job = coreml_job(folder, tmp_path, "lut4-g16", kv_cache=cache, self_contained=False)
        report = emitted(job, tmp_path / cache).facts["residency"]
        rules[cache] = {
            found["rule"]
            for function in report.values()
            for found in function["findings"]
            if found["level"] != "note"
        }
    assert rules == {"io": set(), "state-slice": {"runtime-index"}, "state-blend": set()}


def test_a_stateful_runner_forgets(tiny, tmp_path):
    job = coreml_job(tiny("llama"), tmp_path, kv_cache="state-blend")
    artifact = emitted(job, tmp_path / "coreml")
    runner = find_backend("coreml").open_runner(tmp_path / "coreml", artifact, "float32")
    first = runner.feed(ids_for(job)[:9])
    runner.feed(ids_for(job)[9:12])
    runner.reset()
    np.testing.assert_array_equal(runner.feed(ids_for(job)[:9]), first)


@pytest.mark.parametrize("options", [{}, {"self_contained": False, "kv_cache": "state-blend"}])
def test_a_state_s_slots_are_a_multiple_of_32_whatever_the_context(tiny, tmp_path, options):
    job = coreml_job(tiny("llama"), tmp_path, **options)
    job = dataclasses.replace(job, context_length=50)
    artifact = emitted(job, tmp_path / "coreml")
    caches = [each for each in artifact.inputs if each.name.endswith("_cache")]
    assert [each.shape[-1] for each in caches] == [64, 64]
    got = run(tmp_path / "coreml", artifact, "float32", job)
    assert snr_db(reference_of(job), got) > FLOAT32_FLOOR


@pytest.mark.parametrize("architecture", ["llama-tied", "llama"])
def test_a_table_in_parts_is_looked_up_in_all_of_them(tiny, tmp_path, monkeypatch, architecture):
    """Tied, each part is one constant with that of the head."""
    monkeypatch.setattr(contract, "HEAD_ROWS", 128)
    job = coreml_job(tiny(architecture), tmp_path, "lut4-g16")
    check_floors(job, tmp_path / "coreml")
    found, _ = blobs(tmp_path / "coreml" / "model.mlpackage")
    tables = [name for name, part in found if "embed_tokens" in name and part == "indices"]
    assert tables == [f"model_embed_tokens_{first}_weight" for first in (0, 128, 256)]


def test_a_state_is_kept_in_rows_of_32_and_the_last_is_filled_up(tiny, tmp_path):
    job = coreml_job(tiny("mamba2"), tmp_path)
    (state,) = [each for each in job.model.states if (each.kind, each.layer) == ("conv", 0)]
    assert math.prod(state.shape) == 432
    check_floors(job, tmp_path / "coreml")
    inputs = read_model(tmp_path / "coreml" / "model.mlpackage").description.functions[0].state
    shapes = {each.name: each.type.stateType.arrayType.shape for each in inputs}
    assert list(shapes["conv_0_cache"]) == [1, 1, 14, 32]


def test_the_same_job_gives_the_same_bytes(tiny, tmp_path):
    job = coreml_job(tiny("qwen3"), tmp_path)
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        emitted(job, folder)
        Builder.name_count["coreml_update_state"] += 10  # as another build in this process would
    files = [path for path in folders[0].rglob("*") if path.is_file()]
    assert {"model.mlmodel", "weight.bin", "Manifest.json"} <= {path.name for path in files}
    for path in files:
        other = folders[1] / path.relative_to(folders[0])
        assert path.read_bytes() == other.read_bytes(), path.name


def test_codes_are_those_of_the_bundle_bit_for_bit_and_shared(tiny, tmp_path):
    folder = tiny("llama", num_hidden_layers=4, intermediate_size=512)
    job = coreml_job(folder, tmp_path, self_contained=False)
    emitted(job, tmp_path / "coreml")
    found, size = blobs(tmp_path / "coreml" / "model.mlpackage")
    bits = 0
    for name in job.model.multiplied:
        label = f"{name.replace('.', '_')}_0_weight"
        codes = job.codes.codes(name)
        stored = np.frombuffer(found[label, "data"], np.uint8)
        nibbles = np.stack([stored & 15, stored >> 4], axis=1).reshape(codes.codes.shape)
        np.testing.assert_array_equal((nibbles ^ 8).astype(int) - 8, codes.signed)
        scales = np.frombuffer(found[label, "scale"], np.float16)
        np.testing.assert_array_equal(scales, codes.scales.reshape(-1))
        bits += 4 * codes.codes.size + 16 * codes.scales.size
    vectors = sum(np.prod(shape) for shape in job.model.shapes.values() if len(shape) == 1)
    assert size <= 1.06 * (bits / 8 + 2 * vectors)  # both functions name one copy; tiny: headers


def test_an_operation_without_a_meaning_is_refused_by_name(tiny, tmp_path, monkeypatch):
    emitted(coreml_job(tiny("llama"), tmp_path, self_contained=False), tmp_path / "coreml")
    package = Package(tmp_path / "coreml" / "model.mlpackage", "float32")
    monkeypatch.delitem(KERNELS, "conv")
    function = package.program.functions["decode"]
    inputs = {name: np.zeros(each.shape) for name, each in function.inputs.items()}
    with pytest.raises(BackendError, match="no meaning for the operation conv"):
        package.run("decode", inputs)


@pytest.mark.parametrize("width", [8, 16, 32, 64, 80, 96, 128, 256])
def test_two_halves_multiply_to_the_attention_scale(width):
    one, other = scale_factors(width**-0.5)
    assert float(one) * float(other) == pytest.approx(width**-0.5, rel=1e-6)


def test_what_core_ml_cannot_take_is_named(tiny, tmp_path):
    job = coreml_job(tiny("llama-narrow-heads"), tmp_path, "int4-per-channel")
    grouped = Scheme(encoding="group-wise", bits=4, group_size=32)
    uneven = Scheme(encoding="group-wise", bits=4, group_size=32, symmetric=False)
    schemes = {
        **job.codes.schemes,
        "model.layers.0.mlp.down_proj": grouped,
        "lm_head": uneven,
    }
    found = find_backend("coreml").problems(job.model, schemes, {"colour": 1})
    assert len(found) == 3
    assert any("down_proj" in each and "100 inputs" in each for each in found)
    assert any("lm_head" in each and "asymmetric" in each for each in found)
