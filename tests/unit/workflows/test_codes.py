"""Builds of models with massive activations: scaled, checked again, or refused by name."""

from __future__ import annotations

import json
import shutil

import pytest
import safetensors.numpy
from click.testing import CliRunner

from outlier_twins import OVER_FLOAT16, outlier_twin
from slmkit.bundle.manifest import read_manifest
from slmkit.cli.main import main
from slmkit.errors import BundleError, RefusedError
from slmkit.planning.plan import Request, make_plan
from slmkit.recipe.recipe import load_recipe
from slmkit.system.cache import Cache
from slmkit.system.progress import Silent
from slmkit.workflows.build import build
from slmkit.workflows.codes import CALIBRATION, quantized
from slmkit.workflows.layerwise import compare_layers
from slmkit.workflows.recheck import recheck
from tiers import BUILDS, some
from tiny_models import ort_request, tiny_config, write_checkpoint

LARGE = 1e6  # of one neuron's output, which its column of down_proj divides by
MLP = "model.layers.1.mlp"


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    return outlier_twin(tmp_path_factory.mktemp("twin") / "model", "llama", OVER_FLOAT16)


@pytest.fixture(scope="module")
def bundle(twin, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    return build(ort_request(twin, "int4", folder, cache=folder / "cache"), Silent()).folder


def large_neuron(folder, part):
    """A model that works in float32: one neuron's gate or up is too large for float16."""
    write_checkpoint(folder, tiny_config("llama"))
    path = folder / "model.safetensors"
    values = safetensors.numpy.load_file(path)
    values[f"{MLP}.{part}.weight"][7] *= LARGE
    values[f"{MLP}.down_proj.weight"][:, 7] /= LARGE
    safetensors.numpy.save_file(values, path)
    return folder


def codes_in(cache):
    return sorted(path.name for path in cache.glob("codes-*"))


def test_the_manifest_tells_the_stream_s_scale(bundle):
    assert read_manifest(bundle).stream_scale == 1 / 4


def test_a_bundle_keeps_the_texts_that_chose_its_codes(bundle):
    runs = json.loads((bundle / CALIBRATION).read_text())
    assert {run[0] for run in runs} == {1}  # each begins as a text does, with bos
    wanted = read_manifest(bundle).recipe.calibration.tokens
    assert 2048 < sum(map(len, runs)) <= wanted  # more than observing activations takes


def test_parity_with_the_checkpoint_makes_the_same_codes(bundle, twin, tmp_path):
    found = recheck(bundle, twin, tmp_path / "cache", Silent())
    assert codes_in(tmp_path / "cache") == codes_in(bundle.parent / "cache") != []
    recorded = read_manifest(bundle).parity
    assert [each.metrics for each in found.comparisons] == [each.metrics for each in recorded]


def test_changed_texts_are_found(bundle, twin, tmp_path):
    changed = shutil.copytree(bundle, tmp_path / "bundle")
    runs = json.loads((changed / CALIBRATION).read_text())
    runs[0][3] += 1
    (changed / CALIBRATION).write_text(json.dumps(runs, separators=(",", ":")) + "\n")
    with pytest.raises(BundleError, match=CALIBRATION):
        recheck(changed, twin, None, Silent())


def test_every_tap_of_a_scaled_model_is_good(twin, tmp_path):
    taps = compare_layers(ort_request(twin, "int4", tmp_path / "out"), Silent())
    assert [tap.name for tap in taps if not tap.good] == []
    assert taps[-1].name == "logits"


@pytest.mark.parametrize(
    ("target", "artifact"), [("ios", "coreml"), ("android", "mlc"), ("android", "hexagon")]
)
def test_what_would_overflow_float16_is_refused_by_name(tmp_path, target, artifact):
    model = large_neuron(tmp_path / "model", "gate_proj")
    words = ["build", "--target", target, "--artifacts", artifact, "--model", str(model)]
    words += ["--soc", "sm8650"] if artifact == "hexagon" else []
    failed = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "out")])
    assert failed.exit_code == 4
    said, hint = failed.stderr.strip().splitlines()[-2:]
    assert said.startswith(f"Error: {artifact} would overflow float16")
    assert f"the output of {MLP}.gate_proj reaches" in said
    assert hint.startswith("hint: leave them out with --artifacts")
    assert not any((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("artifact", some(["ort", "litert"], "ort", why=BUILDS))
def test_artifacts_of_float32_are_built_all_the_same(tmp_path, artifact):
    model = large_neuron(tmp_path / "model", "gate_proj")
    built = build(request_of(model, artifact, "int4", tmp_path), Silent())
    assert [each.name for each in built.manifest.artifacts] == [artifact]


def test_a_large_up_projection_is_refused_only_where_it_is_not_smoothed(tmp_path):
    """Factors move from up to down, and with them the neuron's size."""
    model = large_neuron(tmp_path / "model", "up_proj")
    recipe = load_recipe("int4")
    numbers = recipe.calibration.model_copy(update={"balance": False})
    recipe = recipe.model_copy(
        update={"smoothquant": None, "calibration": numbers, "name": "plain"}
    )
    plans = [make_plan(request_of(model, "mlc", each, tmp_path)) for each in ("int4", recipe)]
    smoothed, plain = ((each, each.choice.encodings) for each in plans)
    cache = Cache(tmp_path / "cache")
    assert len(quantized(*smoothed, cache, Silent()).codes) == 1
    with pytest.raises(RefusedError, match=f"the output of {MLP}.up_proj reaches"):
        quantized(*plain, cache, Silent())


def request_of(model, artifact, recipe, out):
    return Request(model, "android", recipe, out, artifacts=(artifact,))
