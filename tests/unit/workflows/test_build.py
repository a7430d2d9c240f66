"""The whole road: bundles are complete, reproducible, and survive kills and interruptions."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from folder_bytes import timeless
from slmkit.bundle.manifest import read_manifest
from slmkit.bundle.verify import verify
from slmkit.errors import BundleError, RecipeError, RefusedError, SlmkitError
from slmkit.planning.plan import Request
from slmkit.recipe.recipe import load_recipe
from slmkit.system.progress import Silent
from slmkit.workflows.build import FailedParity, build
from tiny_models import ort_request, tiny_config, write_checkpoint

COMMAND = [
    sys.executable,
    "-m",
    "slmkit",
    "build",
    "--target",
    "android",
    "--artifacts",
    "ort",
]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A checkpoint of five layers: enough work for a signal to come into each stage."""
    config = tiny_config("llama", num_hidden_layers=5, vocab_size=512)
    return write_checkpoint(tmp_path_factory.mktemp("killed") / "model", config)


@pytest.fixture(scope="module")
def older(model, tmp_path_factory) -> Path:
    """A bundle of that checkpoint, and beside it the cache of its build."""
    folder = tmp_path_factory.mktemp("older")
    request = ort_request(model, "int4", folder / "out", cache=folder / "cache")
    return build(request, Silent()).folder


def start(model: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "--model", str(model), "--out", str(out), *more],
        env=environment(),
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts,
    )


def heed_interrupts() -> None:
    """Tests that were started in the background ignore Ctrl-C, and so would their programs."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)


def wait_for(process: subprocess.Popen[str], stage: str) -> list[psutil.Process]:
    """Read stderr up to a stage's line; the worker processes of that moment."""
    assert process.stderr
    for line in process.stderr:
        if line.strip() == f"slmkit: {stage}":
            time.sleep(0.15)  # into the stage
            return psutil.Process(process.pid).children(recursive=True)
    raise AssertionError(f"the stage {stage!r} never came")


def finish(process: subprocess.Popen[str]) -> int:
    assert process.stderr
    process.stderr.close()
    return process.wait(timeout=30)


def test_two_builds_give_identical_bytes(tiny, tmp_path):
    model = tiny("qwen2")
    bundles = [
        build(ort_request(model, "int4", tmp_path / name), Silent()).folder
        for name in ("first", "second")
    ]
    first, second = map(timeless, bundles)
    assert list(first) == list(second)
    assert [name for name in first if first[name] != second[name]] == []


def test_a_cached_build_equals_a_fresh_one(tiny, tmp_path):
    model, cache = tiny("llama"), tmp_path / "cache"
    fresh = build(ort_request(model, "int8", tmp_path / "a", cache=cache), Silent())
    kept = sorted(path.name for path in cache.glob("[!.]*"))
    cached = build(ort_request(model, "int8", tmp_path / "b", cache=cache), Silent())
    assert sorted(path.name for path in cache.glob("[!.]*")) == kept
    kinds = ["activations", "artifact", "codes", "durations.json", "floats", "golden", "proof"]
    assert [name.partition("-")[0] for name in kept] == [*kinds, "sequences"]
    assert timeless(fresh.folder) == timeless(cached.folder)
    for path in cache.glob("*-*/[!.]*"):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    again = build(ort_request(model, "int8", tmp_path / "c", cache=cache), Silent())
    assert timeless(fresh.folder) == timeless(again.folder)  # nothing of the damage


def test_the_manifest_tells_what_an_app_needs(tiny, tmp_path):
    folder = build(ort_request(tiny("qwen3"), "int4", tmp_path), Silent()).folder
    manifest = read_manifest(folder)
    artifact = manifest.artifact("ort")
    assert {tensor.name for tensor in artifact.inputs} >= {"input_ids", "attention_mask"}
    assert artifact.outputs[0].shape == ("batch", 1, 320)
    assert manifest.recipe.weights == load_recipe("int4").weights
    assert set(manifest.recipe.parity) == {"lowering", "shipped", "quantization"}
    assert manifest.context_length == 256  # the model's own, below the recipe's 2048
    assert {line.error for line in manifest.parity} == {"lowering", "shipped", "quantization"}
    assert artifact.memory.total == sum(
        getattr(artifact.memory, part) for part in ("weights", "kv_cache", "working")
    )
    assert verify(folder) == len(manifest.files)


def test_a_build_and_a_run_leave_nothing_in_the_home_folder(model, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    surroundings = {**environment(), "HOME": str(home)}
    surroundings.pop("XDG_CACHE_HOME", None)
    surroundings.pop("ORT_DISABLE_TELEMETRY", None)
    slmkit = [sys.executable, "-m", "slmkit"]
    out = ["--model", str(model), "--out", str(tmp_path / "out")]
    bundle = str(tmp_path / "out" / "model-android-int4")
    for words in (
        [*COMMAND, *out],
        [*slmkit, "run", bundle, "--prompt", "hi", "--max-tokens", "2"],
    ):
        subprocess.run(words, env=surroundings, check=True, capture_output=True)
    assert list(home.rglob("*")) == []
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


@pytest.mark.parametrize(
    "stage", ["quantize", "emit ort", "run ort, exact", "reference on floats", "run ort, shipped"]
)
def test_a_killed_build_leaves_no_bundle_and_breaks_no_older_one(model, older, tmp_path, stage):
    bundle = shutil.copytree(older, tmp_path / older.name)
    before = timeless(bundle)
    process = start(model, tmp_path, "--recipe", "int4", "--force", "--no-cache")
    workers = wait_for(process, stage)
    process.kill()
    assert finish(process) == -signal.SIGKILL
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []
    assert timeless(bundle) == before
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == [
        older.name
    ]
    cache = older.parents[1] / "cache"
    build(ort_request(model, "int4", tmp_path, force=True, cache=cache), Silent())
    assert [path.name for path in tmp_path.iterdir()] == [older.name]  # leftovers are gone


def test_a_killed_first_build_leaves_nothing_that_looks_like_a_bundle(model, tmp_path):
    process = start(model, tmp_path, "--no-cache")
    wait_for(process, "run ort, exact")
    process.kill()
    finish(process)
    assert not list(tmp_path.glob("[!.]*"))


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("emit ort", signal.SIGINT),
        ("run ort, exact", signal.SIGINT),
        ("emit ort", signal.SIGTERM),
        ("run ort, exact", signal.SIGHUP),
    ],
)
def test_an_interrupted_build_leaves_nothing_behind(model, tmp_path, stage, number):
    process = start(model, tmp_path / "out", "--cache", str(tmp_path / "cache"))
    workers = wait_for(process, stage)
    process.send_signal(number)
    assert process.stderr
    rest = process.stderr.read()
    assert finish(process) == 128 + number
    assert "Traceback" not in rest
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "cache").glob(".making*"))
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_a_bundle_is_not_overwritten_without_force(tiny, tmp_path):
    request = ort_request(tiny("llama"), "int8", tmp_path / "out")
    folder = build(request, Silent()).folder
    before = timeless(folder)
    with pytest.raises(BundleError, match="exists") as caught:
        build(request, Silent())
    assert "--force" in caught.value.hint
    assert timeless(folder) == before


def test_a_folder_that_is_no_bundle_is_never_replaced(tiny, tmp_path):
    place = tmp_path / "out" / "tiny-llama-android-int8"
    place.mkdir(parents=True)
    (place / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="is not a bundle"):
        build(ort_request(tiny("llama"), "int8", place.parent, force=True), Silent())
    assert (place / "thesis.txt").read_text() == "years of work"


def test_a_broken_bound_writes_no_bundle(tiny, tmp_path):
    recipe = json.loads(load_recipe("int4").model_dump_json())
    recipe["parity"]["quantization"] = {"snr_db": 90}
    path = tmp_path / "strict.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    with pytest.raises(FailedParity, match="below 90 dB") as caught:
        build(ort_request(tiny("llama"), str(path), tmp_path / "out"), Silent())
    assert len(caught.value.comparisons) == 4
    assert not (tmp_path / "out").exists()


def test_backend_options_are_checked_before_anything_is_built(tiny, tmp_path):
    recipe = json.loads(load_recipe("int4").model_dump_json())
    recipe["artifacts"] = {"ort": {"accuracy_level": 7, "speed": 11}}
    path = tmp_path / "wrong.yaml"
    path.write_text(json.dumps(recipe))
    with pytest.raises(RefusedError) as caught:
        build(ort_request(tiny("llama"), str(path), tmp_path / "out"), Silent())
    for said in ("artifacts.ort.speed: unknown key", "accuracy_level is 7"):
        assert said in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_bound_without_a_limit_is_refused(tiny, tmp_path):
    recipe = json.loads(load_recipe("int4").model_dump_json())
    recipe["parity"]["lowering"] = {}
    path = tmp_path / "loose.yaml"
    path.write_text(json.dumps(recipe))
    with pytest.raises(RecipeError, match=r"parity\.lowering has no limit") as caught:
        build(ort_request(tiny("llama"), str(path), tmp_path / "out"), Silent())
    assert "snr_db 100" in caught.value.hint


@pytest.mark.parametrize("key", ["artifacts", "parity"])
def test_a_recipe_names_artifacts_and_errors_that_exist(tiny, tmp_path, key):
    recipe = json.loads(load_recipe("int4").model_dump_json())
    recipe[key]["abacus"] = {}
    path = tmp_path / "wrong.yaml"
    path.write_text(json.dumps(recipe))
    with pytest.raises(RecipeError, match=f"{key}.abacus: ") as caught:
        build(ort_request(tiny("llama"), str(path), tmp_path / "out"), Silent())
    assert "hexagon" in caught.value.hint and "lowering" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "windows"}, "no target 'windows'"),
        ({"target": "ios", "artifacts": ("ort",)}, "no artifact 'ort'"),
        ({"recipe": "int3"}, "no recipe 'int3'"),
        ({"context": 100_000}, "--context 100000"),
        ({"artifacts": ("coreml",)}, "no artifact 'coreml'"),
        (
            {"target": "ios", "options": {"hexagon": {"soc": ["sm8650"]}}},
            "hexagon.soc is for the artifact hexagon",
        ),
        ({"memory_limit": 100_000}, "the limit is 100.0 kB"),
        ({"memory_limit": 0}, "a memory limit of 0 bytes is none"),
        ({"artifacts": ("ort", "ort")}, "the artifact ort is named twice"),
        ({"model": Path("/nowhere")}, "is not a folder"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_written(tiny, tmp_path, changes, said):
    values = {
        "model": tiny("llama"),
        "target": "android",
        "recipe": "int4",
        "out": tmp_path / "out",
    }
    with pytest.raises(SlmkitError) as caught:
        build(Request(**{**values, **changes}), Silent())
    assert said in caught.value.message
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


class NoStage(Silent):
    """Fails where any work begins."""

    def stage(self, label: str, total: int) -> None:
        pytest.fail(label)


def test_an_output_that_cannot_be_written_is_one_sentence(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot write"):
        build(ort_request(tiny("llama"), "int4", tmp_path / "file" / "out"), NoStage())
