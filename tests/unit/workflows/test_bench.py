"""Benchmarks of a bundle, each model in processes of its own; the rows whose tokens are wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

import slmkit
import tiers
from slmkit.bundle.manifest import read_manifest
from slmkit.cli.main import main
from slmkit.devices.exporters import FORMS
from slmkit.devices.report import DeviceReport
from slmkit.errors import BundleError, RefusedError, UsageError
from slmkit.inference.speed import DECODED
from slmkit.parity.golden import TOP
from slmkit.parity.golden_file import load_golden
from slmkit.workflows.bench import REPEATS, benchmark
from tiny_bundles import ort_bundle

processes = pytest.mark.full(tiers.PROCESSES)
QUICK: dict[str, Any] = {"lengths": (4, 20), "tokens": 4, "repeats": 3, "threads": 1}
WORDS = ("--lengths", "4,20", "--tokens", "4", "--repeats", "3", "--threads", "1")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return ort_bundle(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def measured(bundle):
    return benchmark(bundle, **QUICK)


def damaged(bundle, folder):
    """A copy whose weights are others, and whose manifest says that they are right."""
    shutil.copytree(bundle, folder)
    path = folder / "ort" / "model.onnx.data"
    path.write_bytes(bytes(reversed(path.read_bytes())))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for file in manifest["files"]:
        if file["path"] == "ort/model.onnx.data":
            file["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def bench(*words, expect=0):
    result = CliRunner().invoke(main, ["bench", *map(str, words)])
    assert result.exit_code == expect, result.output + result.stderr
    return result


def test_each_length_is_measured_as_often_as_asked_cold_and_warm_apart(measured):
    (run,) = measured.runs
    assert (run.name, run.mode, run.peer, run.threads, run.rank) == ("ort", "shipped", False, 1, 1)
    assert [(each.prompt, each.decoded) for each in run.warm] == [(4, 4), (20, 4)]
    assert run.cold.prompt == 4
    for each in (run.cold, *run.warm):
        assert len(each.prefill.runs) == len(each.decode.runs) == 3
        for rate, first in zip(each.prefill.runs, each.first_token_ms.runs, strict=True):
            assert rate == pytest.approx(each.prompt / first * 1000, rel=1e-2)
    assert len(run.load_s.runs) == 3 and run.load_s.median > 0


def test_memory_and_size_are_those_of_the_process_and_its_files(bundle, measured):
    (run,) = measured.runs
    files = [path for path in (bundle / "ort").rglob("*") if path.is_file()]
    assert run.size == sum(path.stat().st_size for path in files)
    assert run.memory_before is not None and run.memory_peak is not None
    assert 10e6 < run.memory_before < run.memory_peak < 2e9


def test_its_tokens_are_compared_with_the_reference(measured):
    tokens = measured.runs[0].tokens
    assert tokens is not None and tokens.passed and 0 < tokens.greedy <= tokens.decoded
    assert tokens.snr_db > 20 and not measured.wrong


def test_every_decoded_position_is_kept_with_its_best_ids(bundle, measured):
    artifact = read_manifest(bundle).artifact("ort")
    golden = load_golden(bundle / artifact.golden).judged(random_ids=False)
    (run,) = measured.runs
    assert [case.name for case in run.cases] == list(golden.names)
    positions = [position for case in run.cases for position in case.positions]
    spans = golden.decoded()
    assert len(positions) == sum(span.stop - span.start for span in spans) == run.tokens.decoded
    best = np.concatenate([golden.outputs.best[span] for span in spans])
    same = np.asarray([position.ids[0] for position in positions]) == best
    assert same.mean() > 0.9
    for position in positions:
        assert len(position.ids) == len(position.logits) == TOP
        assert list(position.logits) == sorted(position.logits, reverse=True)
        assert position.norm > position.logits[0]


def test_the_report_is_json_and_back(measured):
    assert measured.model == "tiny" and measured.recipe == "int4"
    values = json.loads(measured.model_dump_json())
    assert values["runs"][0]["warm"][1]["decode"]["median"] > 0
    assert set(values) == set(DeviceReport.model_fields)


def test_the_wrong_is_marked_never_ranked_and_ends_with_code_3(bundle, tmp_path):
    """Whoever is asked for a form gets it all the same: without speeds of the wrong."""
    folder = damaged(bundle, tmp_path / "wrong")
    to = tmp_path / "report.json"
    words = (folder, *WORDS, "--json", "--as", "llama-bench", "--to", to)
    found = json.loads(bench(*words, expect=3).stdout)
    assert found["runs"][0]["rank"] is None
    assert found["runs"][0]["tokens"]["failures"]
    assert found["error"]["kind"] == "ParityError" and "ort: " in found["error"]["message"]
    assert json.loads(to.read_text()) == []


@processes
def test_a_peer_stands_beside_without_a_rank(bundle):
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    said = json.loads(bench(bundle, *WORDS, "--against", bundle / "ort", "--json").stdout)
    peer = next(run for run in said["runs"] if run["peer"])
    assert peer["rank"] is None and peer["tokens"] is None
    assert peer["runtime"].startswith("onnxruntime-genai")
    assert [speed["prompt"] for speed in peer["warm"]] == [4, 20]


@processes
def test_a_model_that_cannot_be_opened_leaves_the_others_their_turns(bundle, tmp_path):
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    (tmp_path / "genai_config.json").write_text("{", encoding="utf-8")
    found = benchmark(bundle, against=[tmp_path], **QUICK)
    assert [(run.name, run.rank) for run in found.runs] == [("ort", 1)]
    (said,) = found.not_executed
    assert f"/{tmp_path.name}: onnxruntime-genai cannot load" in said


@processes
def test_the_command_shows_tables_and_writes_forms(bundle, tmp_path):
    said = bench(bundle, *WORDS).stdout
    assert "tokens/s, median (spread)" in said and "cold" in said and "20 + 4" in said
    assert json.loads(bench(bundle, *WORDS, "--as", "executorch").stdout)[0]["metric"]
    assert "<testsuite" in bench(bundle, *WORDS, "--as", "junit").stdout


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lengths": (61,)}, "a prompt of 61 tokens does not fit"),
        ({"lengths": (0, 8)}, "a prompt of 0 tokens does not fit"),
        ({"tokens": 64, "lengths": ()}, "64 tokens cannot be decoded in a context of 64"),
        ({"repeats": 2}, "2 repeats have no median"),
        ({"threads": 0}, "0 threads"),
    ],
)
def test_what_cannot_be_measured_is_said_first(bundle, changes, said):
    with pytest.raises(UsageError, match=said):
        benchmark(bundle, **{**QUICK, **changes})


def test_an_artifact_without_a_runtime_here_is_refused_with_the_reason(bundle, tmp_path):
    with pytest.raises(BundleError, match="no artifact 'mlc'"):
        benchmark(bundle, artifacts=["mlc"])
    manifest = (bundle / "manifest.json").read_text(encoding="utf-8")
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    values = json.loads(manifest)
    values["artifacts"][0]["modes"] = values["artifacts"][0]["modes"][:1]  # none that ships
    (other / "manifest.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(RefusedError, match="nothing of this bundle can be measured here: ort"):
        benchmark(other, **QUICK)


def test_damaged_files_are_refused_before_anything_runs(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "broken")
    path = tmp_path / "broken" / "ort" / "model.onnx.data"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"model\.onnx\.data has"):
        benchmark(tmp_path / "broken", **QUICK)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--to", "x.json"), 2, "--to needs a form"),
        (("--lengths", "4,b"), 2, "expected numbers"),
        (("--as", "junit", "--to", "none/x.xml"), 2, "no place for a file"),
        (("--as", "junit", "--to", "."), 2, "no place for a file"),
        (("--as", "junit", "--to", __file__), 2, "test_bench.py exists"),
        (("--against", "nothing.gguf"), 2, "no model of llama.cpp"),
        (("--repeats", "2"), 2, "2 is not in the range"),
    ],
)
def test_wrong_words_end_in_a_sentence(bundle, words, code, said):
    assert said in bench(bundle, *words, expect=code).stderr


def test_two_outputs_need_a_file_for_one(bundle):
    found = json.loads(bench(bundle, "--as", "junit", "--json", expect=2).stdout)
    assert "both want stdout" in found["error"]["message"]


def test_the_defaults_are_those_of_the_function():
    options = {each.name: each for each in main.commands["bench"].params}
    assert options["repeats"].default == REPEATS >= 3
    assert options["tokens"].default == DECODED
    form = options["form"].type
    assert isinstance(form, click.Choice) and list(form.choices) == list(FORMS)
    assert slmkit.benchmark is benchmark
