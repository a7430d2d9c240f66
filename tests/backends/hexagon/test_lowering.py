"""Tiny architectures on Hexagon's emulator: every step of the ladder has its floor."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from artifacts import FLOAT32_FLOOR, emitted, reference_of, run, snr_db
from hexagon_artifacts import EMULATOR, check_ladder, hexagon_job
from slmkit_onnx.hexagon.qnn.socs import OLDEST_ARCHITECTURE, SOCS
from tiers import SCHEMES, some
from tiny_models import scale_weights

TAKEN = ("int4-g32", "int4-g64", "int4-per-channel", "int8-per-channel")  # schemes
SHARP = 2.5  # times random queries: scores span more than a hundred
EVERY_CHIP = [soc.name for soc in SOCS.values() if soc.architecture >= OLDEST_ARCHITECTURE]


def test_scores_far_apart_keep_the_floors(tiny, tmp_path):
    """As a trained model has them: a mask of -50 would show the future to calibration."""
    folder = tiny("llama")
    scale_weights(folder, ".q_proj.", SHARP)
    job = hexagon_job(folder, tmp_path)
    check_ladder(job, tmp_path / "hexagon")
    facts = json.loads((tmp_path / "hexagon" / "calibration.json").read_text())
    assert facts["hidden"] < -100


@pytest.mark.parametrize("scheme", some(TAKEN, "int4-g64", "int8-per-channel", why=SCHEMES))
@pytest.mark.parametrize(
    "architecture", some(["llama-narrow-heads", "llama-biases"], "llama-narrow-heads", why=SCHEMES)
)
def test_every_scheme_keeps_the_floors(tiny, tmp_path, architecture, scheme):
    check_ladder(hexagon_job(tiny(architecture), tmp_path, scheme), tmp_path / "hexagon")


@pytest.mark.parametrize("chip", some(EVERY_CHIP, EVERY_CHIP[-1], why=SCHEMES))
def test_every_chip_computes_the_same_and_its_reloaded_binary_too(tiny, tmp_path, chip):
    residual = "wide" if SOCS[chip].float16 else "int16"
    job = hexagon_job(tiny("qwen3"), tmp_path, soc=[chip], residual=residual)
    artifact = emitted(job, tmp_path / "hexagon")
    integers = run(tmp_path / "hexagon", artifact, "qdq", job, 20)
    emulated = run(tmp_path / "hexagon", artifact, chip, job, 20)
    reloaded = run(tmp_path / "hexagon", artifact, f"{chip}-binary", job, 20)
    assert snr_db(integers, emulated) > EMULATOR
    np.testing.assert_array_equal(reloaded, emulated)


def test_a_split_model_computes_the_same(tiny, tmp_path):
    job = hexagon_job(tiny("qwen2-window"), tmp_path)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    artifact = emitted(job, whole)
    limited = hexagon_job(tiny("qwen2-window"), tmp_path, part_limit=22_000)
    split = emitted(limited, parted)
    names = [part["name"] for part in split.facts["parts"]]
    assert names == ["layers.0-0", "layers.1-1", "head"]
    assert [each["dtype"] for each in split.facts["between"]] == ["float32", "float32"]
    np.testing.assert_array_equal(
        run(whole, artifact, "qdq", job), run(parted, split, "qdq", limited)
    )
    emulated = run(parted, split, "sm8650", limited, 20)
    assert snr_db(run(whole, artifact, "qdq", job, 20), emulated) > EMULATOR
    np.testing.assert_array_equal(emulated, run(parted, split, "sm8650-binary", limited, 20))


@pytest.mark.parametrize("mode", ["qdq", "sm8650"])
def test_the_form_for_genai_computes_the_same(tiny, tmp_path, mode):
    """uint8 keys and values cost precision (37.7 dB measured for one op), not correctness."""
    job = hexagon_job(tiny("mistral-window"), tmp_path, runtime="genai")
    artifact = emitted(job, tmp_path / "hexagon")
    expected = reference_of(job)
    assert snr_db(expected, run(tmp_path / "hexagon", artifact, "float", job)) > FLOAT32_FLOOR
    assert snr_db(expected, run(tmp_path / "hexagon", artifact, mode, job)) > 25


def test_codes_are_those_of_the_bundle_bit_for_bit(tiny, tmp_path):
    job = hexagon_job(tiny("llama"), tmp_path)
    emitted(job, tmp_path / "hexagon")
    model = onnx.load(str(tmp_path / "hexagon" / "prefill.onnx"))
    found = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    for name in job.codes.schemes:
        if name == "model.embed_tokens":
            continue
        codes = job.codes.codes(name)
        np.testing.assert_array_equal(found[f"{name}.codes"].astype(np.int8).T, codes.signed)
        if job.codes.schemes[name].bits == 4:
            factors = found[f"{name}.multipliers"], found[f"{name}.channel_scales"]
            rows = found.get(f"{name}.rows", np.float32(1))
            np.testing.assert_array_equal((factors[0] * factors[1] * rows).T, codes.scales)


@pytest.mark.parametrize("scheme", ["int4-g32", "int8-per-channel"])
def test_rows_larger_than_others_are_divided_by_powers_of_two(tiny, tmp_path, scheme):
    """So that the token with a massive channel keeps its other channels."""
    folder = tiny("llama")
    large = "model.layers.1.mlp.down_proj"
    scale_weights(folder, f"{large}.weight", 6, at=5)
    job = hexagon_job(folder, tmp_path, scheme)
    check_ladder(job, tmp_path / "hexagon")
    model = onnx.load(str(tmp_path / "hexagon" / "prefill.onnx"))
    found = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    factors = found[f"{large}.rows"]
    weight = np.concatenate([block for _, block in job.codes.blocks(f"{large}.weight")])
    norms = np.linalg.norm(weight, axis=1)
    assert factors[5] in (4, 8) and np.median(factors) == 1
    assert (norms / factors).max() < 1.5 * np.median(norms)


def test_nothing_falls_back_to_the_cpu(tiny, tmp_path):
    """A session that fell back would hold other nodes than one context."""
    job = hexagon_job(tiny("llama"), tmp_path)
    emitted(job, tmp_path / "hexagon")
    for kind in ("prefill", "decode"):
        stub = onnx.load(str(tmp_path / "hexagon" / "sm8650" / f"{kind}.onnx"))
        assert [node.op_type for node in stub.graph.node] == ["EPContext"]
