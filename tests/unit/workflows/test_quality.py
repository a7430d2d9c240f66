"""The gate within a build and a later proof: measured, recorded, refused; random weights spared."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest

from slmkit.bundle.manifest import read_manifest
from slmkit.checkpoint.folder import SAMPLE_MODEL
from slmkit.evaluation import gate
from slmkit.parity.proof import Proof, Run
from slmkit.planning.plan import Request
from slmkit.recipe.bounds import Bound
from slmkit.recipe.recipe import load_recipe
from slmkit.system.progress import Silent
from slmkit.workflows.build import FailedParity, build
from slmkit.workflows.evaluate import evaluate_text
from slmkit.workflows.quality import TEXT, _missing
from slmkit.workflows.recheck import recheck
from tiny_models import ort_request


def quality_of(folder):
    quality = read_manifest(folder).quality
    assert quality is not None
    return quality


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


def home(out, cache, **bound):
    recipe = load_recipe("int8")
    if bound:
        parity = {**recipe.parity, "quantization": Bound(**bound)}
        recipe = recipe.model_copy(update={"parity": parity})
    return Request(SAMPLE_MODEL, "android", recipe, out=out, artifacts=("ort",), cache=cache)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, cache):
    return build(home(tmp_path_factory.mktemp("home"), cache), Silent()).folder


def test_codes_and_artifacts_are_measured_on_held_out_text(bundle):
    quality = quality_of(bundle)
    assert quality.trained and quality.passed and quality.bound == gate.REFUSED
    assert [(line.artifact, line.mode) for line in quality.lines] == [
        ("all", "codes"),
        ("ort", "shipped"),
    ]
    codes, artifact = (line.divergence for line in quality.lines)
    assert 0 < codes.kl < artifact.kl < 0.01  # kernels that round activations cost something too
    assert codes.positions == quality.positions > 800
    assert all(line.price == "small" for line in quality.lines)
    assert 10 < quality.float_perplexity < 200
    assert (bundle / TEXT).is_file()


def test_the_figures_are_those_of_slmkit_eval(bundle):
    data = SAMPLE_MODEL / "heldout.jsonl"

    def measured(path, tokens, recipe=None):
        found = evaluate_text(
            path, recipe=recipe, data=data, window=256, tokens=tokens, cache=False
        )
        return found.divergence

    codes = measured(SAMPLE_MODEL, 4000, "int8")
    quality = quality_of(bundle)
    assert codes.rounded() == quality.lines[0].divergence
    assert quality.part_positions < quality.positions / 3
    artifact = measured(bundle, 1000).on_whole(measured(SAMPLE_MODEL, 1000, "int8"), codes)
    assert artifact.kl == pytest.approx(quality.lines[1].divergence.kl, rel=0.02)


def test_a_proof_with_the_checkpoint_measures_again(bundle, cache):
    again = recheck(bundle, SAMPLE_MODEL, cache, Silent())
    assert again.passed and again.quality == quality_of(bundle)
    assert recheck(bundle, None, cache, Silent()).quality is None


def test_a_proof_of_a_bundle_without_held_out_text_leaves_it_out(bundle, cache, tmp_path):
    older = shutil.copytree(bundle, tmp_path / "older")
    (older / TEXT).unlink()
    values = json.loads((older / "manifest.json").read_text(encoding="utf-8"))
    values["files"] = [each for each in values["files"] if each["path"] != TEXT]
    del values["quality"]
    (older / "manifest.json").write_text(json.dumps(values), encoding="utf-8")
    again = recheck(older, SAMPLE_MODEL, cache, Silent())
    assert again.passed and again.quality is None


def test_codes_that_are_too_far_are_refused_before_anything_is_written(tmp_path, cache):
    with pytest.raises(FailedParity, match=r"all codes: KL .* is above 1e-06") as caught:
        build(home(tmp_path / "out", cache, max_kl=1e-6), Silent())
    failed = caught.value
    assert failed.comparisons == () and failed.quality and not failed.quality.passed
    assert not (tmp_path / "out").exists()


def test_an_artifact_that_is_too_far_is_refused_though_its_codes_are_not(tmp_path, bundle, cache):
    codes, artifact = (line.divergence.kl for line in quality_of(bundle).lines)
    limit = math.sqrt(codes * artifact)
    with pytest.raises(FailedParity, match="ort shipped: KL") as caught:
        build(home(tmp_path / "out", cache, max_kl=limit), Silent())
    quality = caught.value.quality
    assert quality and [bool(line.failures) for line in quality.lines] == [False, True]
    assert not (tmp_path / "out").exists()


def test_random_weights_keep_the_old_bound_and_nothing_is_compared(tiny, tmp_path, cache):
    folder = build(ort_request(tiny("llama"), "int4", tmp_path, cache=cache), Silent()).folder
    manifest = read_manifest(folder)
    quality = quality_of(folder)
    assert not quality.trained and quality.lines == ()
    assert manifest.recipe.parity["quantization"] == gate.RANDOM
    assert recheck(folder, tiny("llama"), cache, Silent()).quality == quality


def test_of_a_trained_model_golden_prompts_judge_no_codes_unless_the_recipe_asks(
    bundle, tmp_path, cache
):
    assert read_manifest(bundle).recipe.parity["quantization"] == Bound(snr_db=25)  # of int8
    request = replace(home(tmp_path, cache), recipe="int4")
    manifest = build(request, Silent()).manifest
    assert manifest.recipe.parity["quantization"] == Bound()
    assert manifest.quality is not None and manifest.quality.lines[0].divergence.kl > 0.001


def test_a_mode_that_is_too_slow_is_named_with_the_one_that_read_the_text(bundle, tmp_path):
    artifact = read_manifest(bundle).artifact("ort")
    modes = tuple(replace(mode, prompts=1) for mode in artifact.modes)
    proof = Proof(bundle, {"ort": artifact}, {}, tmp_path, Silent())
    assert _missing(proof) == ("ort shipped, which is too slow here for held-out text",)
    found = quality_of(bundle).lines[1].divergence
    read, unread = (Run([], [], "a runtime", divergence=each) for each in (found, None))
    proof.runs = {("ort", "exact"): read, ("ort", "shipped"): unread}
    assert _missing(proof)[0].endswith("for held-out text: exact read it instead")
    proof.runs = {("ort", "exact"): unread, ("ort", "shipped"): read}
    assert _missing(proof) == ()
    slow = replace(artifact, modes=modes)
    assert gate.gate_mode(slow) is None and gate.gate_mode(artifact) == artifact.modes[1]
