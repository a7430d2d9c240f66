"""--on adb: what cannot be sent to a phone is run by its app, or named with what it lacks.

Commands tested with recorded answers, never executed on a phone.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app_fakes import answers, fake_tools
from near_place import Near
from slmkit.devices.by_app import joined
from slmkit.devices.places import where
from slmkit.devices.places.adb import Adb
from slmkit.devices.places.app import APP
from slmkit.devices.places.box import Box
from slmkit.errors import RefusedError
from slmkit.planning.plan import Request
from slmkit.system.progress import Silent
from slmkit.workflows.bench import prove_on
from slmkit.workflows.build import build
from tiny_models import tiny_config, write_checkpoint

ONE_GPU = {  # a program for each GPU is compiled for a minute
    "extends": "int4",
    "name": "one-gpu",
    "summary": "int4 for one of the GPUs",
    "artifacts": {"mlc": {"gpus": ["adreno"]}},
}


class Phone(Adb):
    """A phone that the fakes show. Its artifacts run here: the fakes compute nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__(box=Box(folder, "3.11", ()))
        self.near = Near(folder / "near")

    def prepare(self, payload):
        self.near.prepare(payload)

    def execute(self, payload, job, out):
        self.near.execute(payload, job, out)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    model = write_checkpoint(folder / "tiny", tiny_config("llama"))
    recipe = folder / "one-gpu.yaml"
    recipe.write_text(json.dumps(ONE_GPU), encoding="utf-8")
    asked = Request(model, "android", str(recipe), folder / "dist", 64, artifacts=("ort", "mlc"))
    return build(asked, Silent()).folder


@pytest.fixture
def fakes(tmp_path, monkeypatch, bundle):
    report = answers(bundle, name="mlc")
    found = fake_tools(tmp_path, report, monkeypatch)
    monkeypatch.setitem(where.PLACES, "adb", lambda serial: Phone(tmp_path))
    return found


def test_what_can_be_sent_is_sent_and_the_app_runs_the_rest(bundle, fakes):
    found = prove_on(bundle, "adb")
    assert [run.name for run in found.runs] == ["ort", "mlc"] and found.not_executed == ()
    sent, by_app = found.runs
    assert sent.tokens is not None and sent.tokens.passed and sent.tokens.decoded > 0
    assert by_app.tokens is not None and by_app.tokens.passed
    assert "not compared: other logits" in by_app.notices[0]
    assert found.device.where == "adb:P1"


def test_what_is_sent_alone_starts_no_app(bundle, fakes):
    found = prove_on(bundle, "adb", artifacts=["ort"])
    assert [run.name for run in found.runs] == ["ort"]
    assert "pm list" not in (fakes / "log").read_text(encoding="utf-8")


def test_without_the_app_the_report_names_what_was_not_executed(bundle, fakes):
    (fakes / "packages").write_text("", encoding="utf-8")
    found = prove_on(bundle, "adb")
    assert [run.name for run in found.runs] == ["ort"]
    (said,) = found.not_executed
    assert said.startswith("mlc: its backend does not say how it runs on another machine")
    assert f"adb:P1 has no app {APP}" in said and "slmkit app new" in said and "--app" in said
    with pytest.raises(RefusedError, match=r"mlc: .* has no app"):
        prove_on(bundle, "adb", artifacts=["mlc"])


def test_an_app_of_another_id_runs_the_rest(bundle, fakes):
    (fakes / "packages").write_text("package:org.example.chat\n", encoding="utf-8")
    found = prove_on(bundle, "adb", artifacts=["mlc"], app="org.example.chat")
    assert [run.name for run in found.runs] == ["mlc"]
    assert found.device.where == "adb-app:P1"


def test_an_app_that_ran_another_build_spoils_nothing_that_was_sent(bundle, fakes):
    report = answers(bundle, name="mlc")
    name = next(iter(report["files"]))
    report["files"][name] = "0" * 64
    (fakes / "report").write_text(json.dumps(report), encoding="utf-8")
    found = prove_on(bundle, "adb")
    assert [run.name for run in found.runs] == ["ort"]
    assert f"ran another {name}" in found.not_executed[0]


def test_wrong_tokens_of_the_app_are_wrong_in_the_report(bundle, fakes):
    report = answers(bundle, noise=3.0, name="mlc")
    (fakes / "report").write_text(json.dumps(report), encoding="utf-8")
    found = prove_on(bundle, "adb")
    assert [run.name for run in found.wrong] == ["mlc"]
    assert joined(found, found).wrong
