"""Artifacts on another machine: the payload that runs without slmkit, and what is said of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import tiers
from near_place import put_near
from slmkit.bundle.manifest import read_manifest
from slmkit.bundle.roles import REPORT, SUMMARY
from slmkit.bundle.verify import verify
from slmkit.cli.main import main
from slmkit.devices.join import FOLDER, MEASURED, PROVED, join_report, report_name
from slmkit.devices.losses import (
    TOLD_DB,
    UNEXPLAINED_DB,
    judged_beside_build,
    loss_notices,
    recorded,
)
from slmkit.devices.payload import run as payload
from slmkit.devices.report import Tokens
from slmkit.errors import BackendError, BundleError, RefusedError, UsageError
from slmkit.parity.golden import log_norms
from slmkit.parity.golden_file import load_golden
from slmkit.planning.plan import Request
from slmkit.system.progress import Silent
from slmkit.workflows.bench import benchmark, prove_on
from slmkit.workflows.build import build
from tiers import some
from tiny_bundles import ort_bundle
from tiny_models import tiny_config, write_checkpoint


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return ort_bundle(tmp_path_factory.mktemp("made"))


SENT = [("llama", "ort"), ("granite-hybrid-moe", "ort"), ("granite-hybrid-moe", "litert")]


@pytest.mark.parametrize(
    ("row", "name"), some(SENT, ("llama", "ort"), why=tiers.BUILDS), ids=lambda each: str(each)
)
def test_a_payload_computes_what_the_build_computed(tmp_path, monkeypatch, row, name):
    """In a process that has no slmkit, to the digits that are kept: caches, states, experts."""
    model = write_checkpoint(tmp_path / "tiny", tiny_config(row))
    asked = Request(model, "android", "int4", tmp_path / "dist", 64, artifacts=(name,))
    bundle = build(asked, Silent()).folder
    manifest = read_manifest(bundle)
    where = put_near(monkeypatch, tmp_path / "there")
    (run,) = prove_on(bundle, where).runs
    assert run.tokens is not None and run.tokens.passed, run.tokens
    assert run.tokens.snr_db == pytest.approx(db_of(manifest, name, run.mode), abs=0.3)
    assert run.warm == () and run.rank is None and run.notices == ()
    golden = load_golden(bundle / manifest.artifact(name).golden).judged(random_ids=False)
    positions = [each for case in run.cases for each in case.positions]
    assert len(positions) == run.tokens.decoded == sum(s.stop - s.start for s in golden.decoded())


def test_speeds_elsewhere_have_cold_and_warm_answers(bundle, tmp_path, monkeypatch):
    where = put_near(monkeypatch, tmp_path / "ort")
    found = benchmark(
        bundle, on=where, artifacts=["ort"], lengths=(4, 20), tokens=4, repeats=3, threads=1
    )
    (run,) = found.runs
    assert [each.prompt for each in run.warm] == [4, 20] and run.rank == 1
    assert len(run.cold.decode.runs) == len(run.load_s.runs) == 3
    assert run.threads == 1 and found.device.where == where and found.device.cores > 0
    assert run.memory_before is not None and run.memory_before < (run.memory_peak or 0)


def test_wrong_weights_on_the_device_are_failed_parity(bundle, tmp_path, monkeypatch):
    """What is judged came from there: with other bytes there it fails, in the bundle too."""
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    where = put_near(monkeypatch, tmp_path / "there")
    prove_on(copy, where, artifacts=["ort"])
    weights = tmp_path / "there" / "model" / "model.onnx.data"
    data = weights.read_bytes()
    weights.unlink()  # it may be a link to the bundle's own file
    weights.write_bytes(bytes(reversed(data)))
    words = ["parity", str(copy), "--on", where, "--artifacts", "ort", "--json"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 3, done.output
    found = json.loads(done.stdout)
    assert found["error"]["kind"] == "ParityError" and found["runs"][0]["rank"] is None
    assert "**failed**" in (copy / SUMMARY).read_text(encoding="utf-8")
    verify(copy)


def test_a_runtime_that_fails_there_is_named_with_its_words(bundle, tmp_path, monkeypatch):
    where = put_near(monkeypatch, tmp_path / "there")
    prove_on(bundle, where, artifacts=["ort"])
    model = tmp_path / "there" / "model" / "model.onnx"
    model.unlink()
    model.write_bytes(b"no model")
    with pytest.raises(BackendError, match=r"near: .*model\.onnx"):
        prove_on(bundle, where, artifacts=["ort"])


def test_a_report_joins_the_bundle_and_its_pages(bundle, tmp_path, monkeypatch):
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    before = {file.path: file.sha256 for file in read_manifest(copy).files}
    report = prove_on(copy, put_near(monkeypatch, tmp_path / "there"), artifacts=["ort"])
    for kind in (PROVED, MEASURED, PROVED):
        join_report(copy, report, kind)
    names = {report_name("near", PROVED), report_name("near", MEASURED)}
    assert names == {f"{FOLDER}/near.json", f"{FOLDER}/near.bench.json"}
    after = {file.path: file for file in read_manifest(copy).files}
    assert verify(copy) == len(after) and set(after) == set(before) | names
    assert {after[name].role for name in names} == {"proof"}
    changed = {name for name in before if before[name] != after[name].sha256}
    assert changed == {REPORT, SUMMARY}
    for page in changed:
        text = (copy / page).read_text(encoding="utf-8")
        assert "On devices" in text and "near" in text
    assert json.loads((copy / FOLDER / "near.json").read_text(encoding="utf-8"))["runs"]


def test_a_damaged_report_or_a_bundle_that_lost_a_file_is_left_alone(bundle, tmp_path, monkeypatch):
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    report = prove_on(copy, put_near(monkeypatch, tmp_path / "there"), artifacts=["ort"])
    name = join_report(copy, report, PROVED)
    (copy / name).write_text("{}", encoding="utf-8")
    manifest = (copy / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match=r"near\.json"):
        join_report(copy, report, MEASURED)
    shutil.rmtree(copy / "ort")
    with pytest.raises(BundleError):
        join_report(copy, report, PROVED)
    assert (copy / "manifest.json").read_bytes() == manifest
    assert not [path for path in tmp_path.iterdir() if "building" in path.name]


@given(st.text(max_size=30))
def test_every_name_of_a_place_is_a_file_in_the_folder(where):
    name = report_name(where, PROVED)
    folder, _, file = name.rpartition("/")
    assert folder == FOLDER and file.endswith(".json") and file[0] not in "-."
    assert all(each.isascii() and (each.isalnum() or each in "._@-") for each in file)


def db_of(manifest, artifact, mode, metric="snr_db"):
    found = recorded(manifest, artifact, mode)
    assert found is not None
    return getattr(found, metric)


def tokens(snr_db):
    return Tokens(top1=1.0, greedy=9, decoded=9, snr_db=snr_db, median_db=snr_db, failures=())


@pytest.mark.parametrize(
    ("less", "features", "passed"),
    [
        (UNEXPLAINED_DB - 0.1, (), True),
        (UNEXPLAINED_DB + 0.1, (), False),
        (UNEXPLAINED_DB + 0.1, ("asimd",), False),
        (UNEXPLAINED_DB + 0.1, ("asimddp",), True),  # KleidiAI: the recipe's bounds judge alone
        (-80, (), True),
    ],
)
def test_a_device_may_not_lose_more_than_its_kernels_explain(bundle, less, features, passed):
    manifest = read_manifest(bundle)
    about = manifest, manifest.artifact("ort"), "shipped"
    found = tokens(db_of(manifest, "ort", "shipped", "median_db") - less)
    judged = judged_beside_build(*about, found, features)
    assert judged.passed is passed
    assert passed or "below the build's" in judged.failures[0]


def test_a_loss_is_told_with_its_cause_and_its_remedy_where_both_are_known(bundle):
    manifest = read_manifest(bundle)
    artifact = manifest.artifact("ort")
    here = db_of(manifest, "ort", "shipped")

    def told(db, *features):
        return loss_notices(manifest, artifact, "shipped", tokens(db), features)

    assert told(here - TOLD_DB + 0.1, "asimddp") == told(here + 20) == ()
    (said,) = told(here - 2, "asimd", "asimddp")
    assert "KleidiAI" in said and "ort.kleidiai=false" in said and f"{here:.1f} dB" in said
    (said,) = told(here - 2, "asimd")
    assert said.endswith("no reason is known")
    assert told(float("nan"), "asimddp") == ()  # parity itself says that


def test_the_option_that_avoids_a_loss_is_not_advised_where_it_is_set(bundle):
    manifest = read_manifest(bundle)
    facts = manifest.artifact("ort").facts | {"session_options": {"mlas.disable_kleidiai": "1"}}
    artifact = replace(manifest.artifact("ort"), facts=facts)
    lost = tokens(db_of(manifest, "ort", "shipped") - 5)
    (said,) = loss_notices(manifest, artifact, "shipped", lost, ("asimddp",))
    assert "kleidiai" not in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--on", "moon"), 2, "there is no place 'moon'"),
        (("--on", "qemu-arm64:z80"), 2, "no profile 'z80'"),
        (("--on", "qemu-arm64"), 1, "not set up here"),
        (("--on", "near", "--model", "."), 2, "--model has no part"),
        (("--artifacts", "ort"), 2, "--artifacts has no part in --on local"),
        (("--app", "org.example.chat"), 2, "--app has no part in --on local"),
        (("--on", "near", "--artifacts", "mlc"), 1, "no artifact 'mlc'"),
    ],
)
def test_wrong_words_end_in_a_sentence(bundle, tmp_path, monkeypatch, words, code, said):
    put_near(monkeypatch, tmp_path / "there")
    done = CliRunner().invoke(main, ["parity", str(bundle), *words])
    assert done.exit_code == code and said in done.stderr, done.stderr


def test_this_computer_is_no_other_place(bundle):
    with pytest.raises(UsageError, match="no work for a place"):
        prove_on(bundle, "local")


def test_peers_stay_on_this_computer(bundle, tmp_path, monkeypatch):
    where = put_near(monkeypatch, tmp_path / "there")
    with pytest.raises(UsageError, match="peers run on this computer"):
        benchmark(bundle, on=where, against=[bundle])


def test_an_artifact_that_cannot_be_sent_is_refused_with_the_way_out(bundle, tmp_path, monkeypatch):
    values = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    values["artifacts"] = values["artifacts"][:1]
    values["artifacts"][0]["name"] = "hexagon"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(RefusedError, match="does not say how it runs"):
        prove_on(tmp_path / "other", put_near(monkeypatch, tmp_path / "there"))


def test_places_are_listed_with_what_they_lack():
    done = CliRunner().invoke(main, ["device", "list", "--json"])
    found = {each["where"]: each for each in json.loads(done.stdout)}
    assert found["local"]["state"] == "ready" and "ort" in found["local"]["runs"]
    assert "slmkit device setup qemu-arm64" in found["qemu-arm64:a76"]["state"]
    done = CliRunner().invoke(main, ["device", "setup", "local"])
    assert done.exit_code == 2 and "needs no setup" in done.stderr


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=20), st.booleans())
def test_the_payload_sums_as_the_host_does(row, broken):
    logits = np.asarray([row, row], np.float32)
    if broken:
        logits[1, 0] = np.inf
    np.testing.assert_allclose(payload.log_norms(logits), log_norms(logits), rtol=1e-12)
    found = payload.best(logits[0], payload.log_norms(logits)[0])
    assert [logits[0][at] for at in found["ids"]] == sorted(logits[0], reverse=True)[:8]
