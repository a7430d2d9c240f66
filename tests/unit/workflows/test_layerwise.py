"""Tracing finds the layer of a planted bug, and nothing in a right artifact."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from slmkit.cli.main import main
from slmkit.planning.emit import emit_job
from slmkit.system import subprocess_worker
from slmkit.system.progress import Silent
from slmkit.workflows.layerwise import compare_layers, run_job
from slmkit_onnx.ort.lowering.ops import OnnxOps
from tiny_models import ort_request

JOBS = {
    "slmkit.planning.emit:emit_job": emit_job,
    "slmkit.workflows.layerwise:run_job": run_job,
}


@pytest.fixture
def in_this_process(monkeypatch):
    """Jobs run here, so that a planted bug reaches them."""
    monkeypatch.setattr(
        subprocess_worker, "call", lambda job, payload, report, about: JOBS[job](payload, report)
    )


def test_every_tap_of_a_right_artifact_is_good(tiny, tmp_path):
    taps = compare_layers(ort_request(tiny("qwen3"), "int4", tmp_path / "out"), Silent())
    assert all(tap.good for tap in taps)
    assert [tap.name for tap in taps][:3] == [
        "model.embed_tokens",
        "model.layers.0.self_attn",
        "model.layers.0.mlp",
    ]
    assert taps[-1].name == "logits"
    assert not (tmp_path / "out").exists()


def test_a_bug_is_found_in_the_layer_where_it_is(tiny, tmp_path, monkeypatch, in_this_process):
    right = OnnxOps.silu
    calls = []

    def wrong_in_layer_1(self, x):
        calls.append(x)
        return self.sigmoid(x) if len(calls) == 2 else right(self, x)

    monkeypatch.setattr(OnnxOps, "silu", wrong_in_layer_1)
    taps = compare_layers(ort_request(tiny("llama"), "int8", tmp_path / "out"), Silent())
    assert next(tap.name for tap in taps if not tap.good) == "model.layers.1.mlp"


def test_the_command_shows_a_table_or_json(tiny):
    words = ["trace", "--target", "android", "--model", str(tiny("llama", num_hidden_layers=5))]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0 and "model.layers.4.mlp" in shown.stdout
    taps = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert all(tap["good"] for tap in taps)


@pytest.mark.parametrize(
    ("target", "artifact"),
    [("android", "hexagon"), ("android", "litert"), ("android", "mlc"), ("ios", "coreml")],
)
def test_every_artifact_is_followed(tiny, target, artifact):
    words = ["trace", "--target", target, "--artifact", artifact, "--json"]
    done = CliRunner().invoke(main, [*words, "--model", str(tiny("llama"))])
    assert done.exit_code == 0, done.stderr
    taps = json.loads(done.stdout)
    assert len(taps) > 5 and all(tap["good"] for tap in taps)
