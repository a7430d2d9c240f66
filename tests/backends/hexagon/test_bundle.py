"""A bundle with the hexagon artifact: what its manifest says, and what it is worth later."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from artifacts import emitted, reference_of, run, snr_db
from hexagon_artifacts import hexagon_job
from slmkit.bundle.manifest import read_manifest
from slmkit.bundle.verify import verify
from slmkit.cli.main import main
from slmkit.errors import BundleError
from slmkit.inference.load import load
from slmkit.planning.plan import Request
from slmkit.system.progress import Silent
from slmkit.workflows.build import build
from slmkit.workflows.recheck import recheck
from slmkit_onnx.hexagon import plan
from tiny_models import tiny_config, write_checkpoint

LADDER = {
    ("float, long", "reference", "lowering"),
    ("float", "reference", "lowering"),
    ("qdq", "float", "activations"),
    ("sm8650", "qdq", "emulator"),
    ("sm8650", "reference", "activations"),
    ("sm8650-binary", "sm8650", "reloaded"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    model = write_checkpoint(folder / "model", tiny_config("llama"))
    (folder / "text.txt").write_text("the quick brown fox turns off the kitchen lights " * 40)
    request = Request(
        model,
        "android",
        "int4",
        folder / "out",
        context=64,
        artifacts=("hexagon",),
        options={"hexagon": {"soc": ["sm8650"]}},
        calibration=folder / "text.txt",
    )
    return build(request, Silent())


def test_every_step_of_the_ladder_is_reported_and_kept(built):
    steps = {(line.mode, line.against, line.error) for line in built.manifest.parity}
    assert steps >= LADDER
    assert not any(line.failures for line in built.manifest.parity)
    where = {line.mode: line.runtime for line in built.manifest.parity}
    assert "emulator of sm8650 (Hexagon V75), reloaded binary" in where["sm8650-binary"]


def test_the_manifest_lists_every_tensor_with_its_integers(built):
    artifact = read_manifest(built.folder).artifact("hexagon")
    inputs = {each.name: each for each in artifact.inputs}
    assert set(inputs) == {
        "input_ids",
        "cos",
        "sin",
        "attention_mask",
        *(f"past_{part}_{layer}" for part in ("key", "value") for layer in (0, 1)),
    }
    key = inputs["past_key_0"]
    assert (key.dtype, key.shape, key.zero_point) == ("int16", (1, 2, 16, "past"), 0)
    outputs = {each.name: each for each in artifact.outputs}
    new = outputs["new_key_0"]
    assert (new.scale, new.zero_point, new.shape) == (key.scale, 0, (1, 2, 16, "tokens"))
    assert (outputs["logits"].dtype, outputs["logits"].shape) == ("float32", (1, "tokens", 320))
    assert inputs["cos"].scale is None
    # QNN compiles no graph of 32 tokens with a float16 stream: see FEWER in plan.py.
    assert artifact.facts["graphs"]["prefill"] == {"tokens": 30, "past": 34}
    assert all(each.about for each in (*artifact.inputs, *artifact.outputs))


def test_the_manifest_says_what_an_app_must_pair_and_what_was_not_run(built):
    manifest = read_manifest(built.folder)
    facts = manifest.artifact("hexagon").facts
    assert [soc["name"] for soc in facts["socs"]] == ["sm8650"]
    assert facts["qairt"].startswith("v2.")
    assert any(facts["qairt"] in package for package in facts["packages"])
    assert any("weight-shared" in each for each in manifest.not_executed)
    files = {file.path for file in manifest.files}
    assert {"hexagon/sm8650/prefill.onnx", "hexagon/sm8650/decode.onnx"} <= files
    apart = ("calibration.json", "embed.onnx", "prefill.onnx", "weights.data", "float.decode.onnx")
    assert {f"proof/hexagon/{name}" for name in apart} <= files


def test_parity_runs_again_and_says_the_same(built):
    found = recheck(built.folder, None, None, Silent())
    assert not any(line.failures for line in found.comparisons)
    assert {(line.mode, line.against, line.error) for line in found.comparisons} == LADDER


def test_a_damaged_binary_is_found(built, tmp_path):
    path = built.folder / "hexagon" / "sm8650" / "prefill_qnn.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"prefill_qnn\.bin"):
        verify(built.folder)
    path.write_bytes(whole)


def test_answers_come_from_the_reloaded_binary(built):
    loaded = load(built.folder, "hexagon")
    assert "reloaded binary" in loaded.about
    ids = np.array(loaded.tokenizer.encode("the fox"))
    assert loaded.runner.feed(ids).shape == (len(ids), 320)


def test_a_model_too_large_for_the_emulator_runs_its_first_and_last_layer(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(plan, "MAX_EMULATED_PARAMETERS", 0)
    job = hexagon_job(tiny("llama", num_hidden_layers=4), tmp_path)
    artifact = emitted(job, tmp_path / "hexagon")
    assert [mode.name for mode in artifact.modes] == ["float", "qdq", "qdq-layers", "sm8650-layers"]
    assert artifact.default_mode == "qdq"
    assert "too large" in artifact.report.not_executed[0]
    exact, integers, some, layers = (
        run(tmp_path / "hexagon", artifact, mode.name, job) for mode in artifact.modes
    )
    assert snr_db(exact, some) > snr_db(exact, integers) > 50  # two layers of four round less
    assert 50 < snr_db(some, layers) < 100  # near, and not the same arithmetic
    assert snr_db(reference_of(job), layers) > 50


def test_the_same_job_gives_the_same_bytes(tiny, tmp_path):
    """All but what the compiler writes: its binaries hold a time."""
    job = hexagon_job(tiny("qwen3"), tmp_path)
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        emitted(job, folder)
    names = [path.name for path in folders[0].iterdir() if path.is_file()]
    assert {"prefill.onnx", "weights.data", "calibration.json", "embed.onnx"} <= set(names)
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_trace_follows_the_hexagon_graph_layer_by_layer():
    words = ["trace", "--target", "android", "--artifact", "hexagon"]  # of the sample model
    done = CliRunner().invoke(main, [*words, "--json"])
    assert done.exit_code == 0, done.stderr
    taps = json.loads(done.stdout)
    assert len(taps) > 10 and all(tap["good"] for tap in taps)
