"""What a package says of itself, what it stores, and the runner of Macs."""

from __future__ import annotations

import dataclasses
import platform

import numpy as np
import pytest
from coremltools.converters.mil.frontend.milproto import load as loader

from artifacts import emitted, ids_for, reference_of, run, snr_db
from coreml_artifacts import FLOAT16_FLOOR, blobs, coreml_job
from own_process import printed
from slmkit.backend.registry import find_backend
from slmkit_coreml.backend import VERSION
from slmkit_coreml.embedding import Embedding, write_embedding
from slmkit_coreml.package import WEIGHTS, read_model
from slmkit_coreml.verify import evaluator
from slmkit_coreml.verify.device import compute_plan
from slmkit_coreml.verify.evaluator import Package, WeightCache

ABOUT = {"model": "tiny", "license": "apache-2.0", "recipe": "mine", "slmkit": "1.2.3"}
ON_MACOS = platform.system() == "Darwin"


def described(job, folder, **options):
    emitted(dataclasses.replace(job, about=ABOUT, options=options), folder)
    return read_model(folder / "model.mlpackage").description


@pytest.mark.parametrize(
    "options",
    [{}, {"layout": "gpu"}, {"self_contained": False}],
    ids=str,
)
def test_every_border_is_described(tiny, tmp_path, options):
    found = described(coreml_job(tiny("llama"), tmp_path), tmp_path / "out", **options)
    for function in found.functions:
        for each in (*function.input, *function.output, *function.state):
            assert len(each.shortDescription) > 3, (function.name, each.name)
    assert {function.name for function in found.functions} == {"prefill", "decode"}


def test_the_package_says_who_made_it_of_what(tiny, tmp_path):
    job = coreml_job(tiny("llama"), tmp_path, "lut4-g16")
    found = described(job, tmp_path / "out", author="Ada").metadata
    assert (found.author, found.license) == ("Ada", "apache-2.0")
    assert found.versionString == f"slmkit_coreml {VERSION}"
    facts = dict(found.userDefined)
    assert facts["slmkit.version"] == "1.2.3"
    assert facts["slmkit.recipe"] == "mine"
    assert facts["slmkit.weights"] == "16 lut4 g16"
    other = described(job, tmp_path / "other", license="mit").metadata
    assert (other.author, other.license) == ("converted by slmkit 1.2.3", "mit")


@pytest.mark.parametrize(("scheme", "bits"), [("lut3-g16", 3), ("lut4-g16", 4), ("lut6-g16", 6)])
def test_palettes_and_indices_are_those_of_the_bundle_bit_for_bit(tiny, tmp_path, scheme, bits):
    job = coreml_job(tiny("llama"), tmp_path, scheme)
    emitted(job, tmp_path / "coreml")
    found, _ = blobs(tmp_path / "coreml" / "model.mlpackage")
    for name in job.model.multiplied:
        label = f"{name.replace('.', '_')}_0_weight"
        stored = np.frombuffer(found[label, "indices"], np.uint8)
        stream = np.unpackbits(stored, bitorder="little").reshape(-1, bits)
        indices = (stream << np.arange(bits, dtype=np.uint8)).sum(axis=1)
        codes = job.codes.palette(name)
        np.testing.assert_array_equal(indices.reshape(codes.codes.shape), codes.codes)
        palettes = np.frombuffer(found[label, "lut"], np.float16)
        np.testing.assert_array_equal(palettes, codes.palettes.reshape(-1))


@pytest.mark.parametrize("scheme", ["lut6-g16", "int8-per-channel", "int8-g32", "float16"])
def test_the_embedding_file_is_exact(tiny, tmp_path, scheme):
    job = coreml_job(tiny("llama", vocab_size=330), tmp_path, scheme)
    facts = write_embedding(job.codes, "model.embed_tokens", tmp_path)
    ids = np.array([0, 1, 15, 16, 329])
    expected = job.codes.rows("model.embed_tokens.weight", ids)
    np.testing.assert_array_equal(Embedding(tmp_path, facts).look_up(ids), expected)


def test_what_is_not_kept_is_decompressed_each_time(tiny, tmp_path):
    job = coreml_job(tiny("llama"), tmp_path, "lut4-g16", self_contained=False)
    emitted(job, tmp_path / "out")
    path = tmp_path / "out" / "model.mlpackage"
    inputs: dict[str, np.ndarray] = {}
    answers = []
    for limit in (0, 100_000, 10**9):
        cache = WeightCache(limit)
        package = Package(path, "float32", cache)
        for name, variable in package.program.functions["prefill"].inputs.items():
            source = np.random.default_rng(len(name))
            inputs.setdefault(name, source.standard_normal(variable.shape).astype(np.float32))
        first = package.run("prefill", inputs)["logits_0"]
        np.testing.assert_array_equal(package.run("prefill", inputs)["logits_0"], first)
        assert sum(each.nbytes for each in cache.weights.values()) <= limit
        answers.append(first)
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


def test_codes_that_two_functions_share_are_read_once(tiny, tmp_path):
    job = coreml_job(tiny("llama"), tmp_path, "lut4-g16")
    emitted(job, tmp_path / "out")
    path = tmp_path / "out" / "model.mlpackage"
    message = read_model(path)
    with evaluator._each_blob_once():
        program = loader.load(message, message.specificationVersion, str(path / WEIGHTS))
    prefill, decode = (
        [each for each in function.operations if each.op_type == "constexpr_lut_to_dense"]
        for function in program.functions.values()
    )
    assert len(prefill) == len(decode) > 0
    assert {id(each.indices.val) for each in prefill} == {id(each.indices.val) for each in decode}


@pytest.mark.skipif(not ON_MACOS, reason="Core ML itself runs on macOS only")
@pytest.mark.parametrize("options", [{}, {"self_contained": False}, {"layout": "gpu"}], ids=str)
def test_core_ml_itself_keeps_the_floor(tiny, tmp_path, options):
    job = dataclasses.replace(coreml_job(tiny("llama"), tmp_path, "lut4-g16"), options=options)
    artifact = emitted(job, tmp_path / "out")
    assert (
        snr_db(reference_of(job), run(tmp_path / "out", artifact, "float16", job)) > FLOAT16_FLOOR
    )
    runner = find_backend("coreml").open_runner(tmp_path / "out", artifact, "float16")
    assert "Core ML of macOS" in runner.runtime
    assert len(runner.feed(ids_for(job)[:3])) == 3


@pytest.mark.skipif(not ON_MACOS, reason="MLComputePlan is there on macOS only")
def test_core_ml_has_a_plan_of_its_own(tiny, tmp_path):
    emitted(coreml_job(tiny("llama"), tmp_path, "lut4-g16"), tmp_path / "out")
    plan = compute_plan(tmp_path / "out" / "model.mlpackage", "cpu_and_ne")
    assert set(plan) == {"prefill", "decode"}


def test_neither_writing_nor_evaluating_imports_another_framework(tiny, tmp_path):
    """In processes of their own, as builds have them."""
    said = (
        "import sys; from pathlib import Path; from slmkit.backend.registry import find_backend\n"
        "from artifacts import emitted, run\n"
        "from coreml_artifacts import coreml_job\n"
        "job = coreml_job(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "artifact = emitted(job, Path(sys.argv[2]) / 'coreml')\n"
        "run(Path(sys.argv[2]) / 'coreml', artifact, 'float32', job)\n"
        "assert 'coremltools' in sys.modules\n"
        "from slmkit_coreml.backend import FRAMEWORKS\n"
        "print([name for name in FRAMEWORKS if name in sys.modules])\n"
    )
    assert printed(said, tiny("llama"), tmp_path) == "[]"
