"""An app project out of a bundle: whole or not there, and what its checks find."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner

from app_bundles import bundle_of
from chat_templates import with_template
from slmkit import api
from slmkit.app import template as templates
from slmkit.app.project import MARK
from slmkit.bundle.export import EXPORT
from slmkit.bundle.manifest import read_manifest, write_manifest
from slmkit.cli.main import main
from slmkit.errors import AppError, BundleError, RefusedError, UsageError
from slmkit.system.cache import file_hash
from slmkit.system.progress import Silent
from slmkit.workflows.build import build
from tiny_models import ort_request, tiny_config, write_checkpoint


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return bundle_of(tmp_path_factory.mktemp("qwen"), "qwen2", "qwen2")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A template of three files, whose facts a test may change."""

    def make(**changes):
        folder = tmp_path / "places" / "toy"
        (folder / "src" / "dev" / "toy").mkdir(parents=True, exist_ok=True)
        (folder / "src" / "dev" / "toy" / "main.txt").write_text("package dev.toy\n")
        (folder / "left.log").write_text("dev.toy\n")
        (folder / "picture.bin").write_bytes(b"\xff\xfedev.toy")
        (folder / "PROJECT.md").write_text("# {{ id }} {{ size }} {{ word }}\n")
        facts = {
            "format": "slmkit-app-template/1",
            "platform": "toy",
            "id": "dev.toy",
            "id_form": r"[a-z]+(\.[a-z]+)+",
            "id_example": "com.example.app",
            "reserved": ["class"],
            "models": "assets",
            "beside": "pushed",
            "largest": 10**8,
            "vectors": "vectors",
            "artifacts": {"ort": {"tokenizes": "app", "words": {"word": "w"}}},
            "left_out": ["*.log"],
            "checks": [],
            "not_executed": {"on a device": "there is none"},
        }
        (folder / "template.json").write_text(json.dumps({**facts, **changes}))
        monkeypatch.setattr(templates, "PLACES", (tmp_path / "places",))

    make()
    return make


def test_a_project_has_the_template_s_files_under_the_new_id(toy, qwen, tmp_path):
    project = api.new_app(qwen, "toy", tmp_path / "app", app_id="org.my.chat")
    names = {
        path.relative_to(tmp_path / "app").as_posix()
        for path in (tmp_path / "app").rglob("*")
        if path.is_file() and "model" not in path.parts
    }
    assert names == {
        "README.md", "assets/cases.json", "assets/chat.json", "assets/tokens.json",
        "picture.bin", MARK, "src/org/my/chat/main.txt",
    }  # fmt: skip
    said = (tmp_path / "app" / "src" / "org" / "my" / "chat" / "main.txt").read_text()
    assert said == "package org.my.chat\n"
    assert (tmp_path / "app" / "picture.bin").read_bytes() == b"\xff\xfedev.toy"
    assert (tmp_path / "app" / "README.md").read_text().startswith("# org.my.chat ")
    assert project.artifact == "ort" and project.inside


def test_a_new_project_passes_every_check_that_is_executed(toy, qwen, tmp_path):
    api.new_app(qwen, "toy", tmp_path / "app")
    report = api.check_app(tmp_path / "app")
    report.check()
    assert [each.outcome for each in report.checks] == [*["passed"] * 3, "not executed"]
    assert report.checks[-1].why == "there is none"


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        ("assets/model/model.onnx", "files and hashes"),
        ("assets/cases.json", "golden cases"),
        ("assets/chat.json", "tokenizer and chat, in Python"),
        ("assets/tokens.json", "tokenizer and chat, in Python"),
        ("vectors/model/vectors.json", "tokenizer and chat, in Python"),
    ],
)
def test_a_damaged_file_fails_the_check_that_reads_it(toy, qwen, tmp_path, damage, check):
    api.new_app(qwen, "toy", tmp_path / "app")
    path = tmp_path / "app" / damage
    text = path.read_bytes()
    path.write_bytes(text.replace(b"assistant", b"Assistant").replace(b'"norm": ', b'"norm": -1'))
    if path.read_bytes() == text:
        path.write_bytes(text[:-1] + b"!")
    report = api.check_app(tmp_path / "app")
    assert {each.name for each in report.checks if each.outcome == "failed"} == {check}
    with pytest.raises(AppError, match=check):
        report.check()


def test_a_tokenizer_that_makes_other_ids_is_noticed(toy, qwen, tmp_path):
    api.new_app(qwen, "toy", tmp_path / "app")
    model = tmp_path / "app" / "assets" / "model"
    values = json.loads((model / "tokenizer.json").read_text("utf-8"))
    values["model"]["merges"] = values["model"]["merges"][1:]
    (model / "tokenizer.json").write_text(json.dumps(values), "utf-8")
    failed = {
        each.name for each in api.check_app(tmp_path / "app").checks if each.outcome == "failed"
    }
    assert failed == {"files and hashes", "tokenizer and chat, in Python"}


def test_a_check_by_tools_is_run_where_they_are(toy, qwen, tmp_path):
    setup = tmp_path / "places" / "setup"
    setup.mkdir()
    (setup / "tools.sh").write_text(f'#!/bin/sh\n[ "$1" = --where ] && echo {tmp_path}\n')
    (setup / "tools.sh").chmod(0o755)
    (setup / "none.sh").write_text("#!/bin/sh\necho /nowhere\n")
    (setup / "none.sh").chmod(0o755)
    script = "import sys; print('a\\nb'); sys.exit(sys.argv[1] != 'good')"

    def check(name, word, tools="tools.sh", artifacts=("ort",), **more):
        command = ["{python}", "-c", script, word]
        return {"name": name, "command": command, "tools": tools, "artifacts": artifacts, **more}

    slow = ["{python}", "-c", "import time; time.sleep(60)"]
    toy(
        checks=[
            check("good", "good"),
            check("bad", "bad"),
            check("without tools", "good", tools="none.sh"),
            check("without a script", "good", tools="other.sh"),
            check("of others", "good", artifacts=("litert",)),
            {**check("slow", "good", minutes=0.01), "command": slow},
        ]
    )
    api.new_app(qwen, "toy", tmp_path / "app")
    found = {each.name: each for each in api.check_app(tmp_path / "app").checks[3:-1]}
    assert {name: each.outcome for name, each in found.items()} == {
        "good": "passed",
        "bad": "failed",
        "without tools": "not executed",
        "without a script": "not executed",
        "of others": "not executed",
        "slow": "failed",
    }
    assert found["good"].why == "b" and found["bad"].why == "a\nb"
    assert str(setup / "none.sh") in found["without tools"].why
    assert found["slow"].why == "it took more than 0.01 minutes"


def test_what_is_too_large_for_the_app_lies_beside_it(toy, qwen, tmp_path):
    toy(largest=1000)
    project = api.new_app(qwen, "toy", tmp_path / "app")
    assert not project.inside
    assert (tmp_path / "app" / "pushed" / "model" / EXPORT).is_file()
    assert (tmp_path / "app" / "pushed" / "cases.json").is_file()
    assert not (tmp_path / "app" / "assets").exists()
    api.check_app(tmp_path / "app").check()


def test_an_artifact_whose_runtime_tokenizes_needs_no_tokenizer_of_the_app(toy, qwen, tmp_path):
    toy(artifacts={"ort": {"tokenizes": "runtime", "words": {"word": "w"}}})
    project = api.new_app(qwen, "toy", tmp_path / "app")
    assert project.vectors is None
    outcome = api.check_app(tmp_path / "app").checks[2]
    assert outcome.outcome == "not executed"


def refused(tmp_path, **changes):
    """Nothing is written, and what stood there before stays."""
    with pytest.raises(api.SlmkitError) as told:
        api.new_app(out=tmp_path / "app", **changes)
    assert not (tmp_path / "app").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    return told


@pytest.mark.parametrize(
    ("changes", "kind", "word"),
    [
        ({"platform": "watch"}, UsageError, "no sample app for 'watch'"),
        ({"app_id": "nothing"}, UsageError, "not of that form"),
        ({"app_id": "com.class.app"}, UsageError, "'class' is a word"),
        ({"artifact": "litert"}, BundleError, "no artifact 'litert'"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(toy, qwen, tmp_path, changes, kind, word):
    told = refused(tmp_path, **{"bundle": qwen, "platform": "toy", **changes})
    assert isinstance(told.value, kind) and word in str(told.value) and told.value.hint


def test_an_artifact_that_the_app_does_not_run_is_refused(toy, qwen, tmp_path):
    toy(artifacts={"other": {"tokenizes": "app"}})
    told = refused(tmp_path, bundle=qwen, platform="toy")
    assert "none of the bundle's artifacts: ort" in str(told.value)
    told = refused(tmp_path, bundle=qwen, platform="toy", artifact="ort")
    assert "does not run ort" in str(told.value)


def test_another_form_of_an_artifact_is_refused(toy, qwen, tmp_path):
    form = {"tokenizes": "app", "words": {"word": "w"}}
    toy(artifacts={"ort": {**form, "facts": {"accuracy_level": 4}}})
    api.new_app(qwen, "toy", tmp_path / "fits")
    toy(artifacts={"ort": {**form, "facts": {"accuracy_level": 0}}})
    told = refused(tmp_path, bundle=qwen, platform="toy")
    assert isinstance(told.value, RefusedError)
    assert told.value.hint == "build it with --option ort.accuracy_level=0"


def test_a_tokenizer_that_apps_cannot_read_is_refused(toy, qwen, tmp_path):
    bundle = shutil.copytree(qwen, tmp_path / "changed")
    path = bundle / "tokenizer" / "tokenizer.json"
    values = json.loads(path.read_text("utf-8"))
    values["normalizer"] = {"type": "NFKC"}
    path.write_text(json.dumps(values), "utf-8")
    told = refused(tmp_path, bundle=bundle, platform="toy")
    assert isinstance(told.value, BundleError)  # its hash is another one
    manifest = read_manifest(bundle)
    files = [
        file.model_copy(update={"sha256": file_hash(path), "size": path.stat().st_size})
        if file.path == "tokenizer/tokenizer.json"
        else file
        for file in manifest.files
    ]
    write_manifest(manifest.model_copy(update={"files": tuple(files)}), bundle)
    told = refused(tmp_path, bundle=bundle, platform="toy")
    assert isinstance(told.value, RefusedError) and "NFKC" in str(told.value)


def test_a_template_without_a_form_is_refused_unless_raw_prompts_will_do(toy, tmp_path):
    model = write_checkpoint(tmp_path / "tiny", tiny_config("llama"))
    with_template(model, "{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}")
    bundle = build(ort_request(model, "int4", tmp_path / "dist"), Silent()).folder
    told = refused(tmp_path, bundle=bundle, platform="toy")
    assert isinstance(told.value, RefusedError) and "--raw" in told.value.hint
    api.new_app(bundle, "toy", tmp_path / "app", raw=True)
    chat = json.loads((tmp_path / "app" / "assets" / "chat.json").read_text("utf-8"))
    assert "fixed text" in chat["refused"]
    api.check_app(tmp_path / "app").check()


def test_only_an_older_project_is_replaced_and_only_with_force(toy, qwen, tmp_path):
    api.new_app(qwen, "toy", tmp_path / "app")
    with pytest.raises(BundleError, match=r"the app project .* exists"):
        api.new_app(qwen, "toy", tmp_path / "app")
    api.new_app(qwen, "toy", tmp_path / "app", app_id="org.other", force=True)
    assert json.loads((tmp_path / "app" / MARK).read_text())["id"] == "org.other"
    (tmp_path / "mine").mkdir()
    with pytest.raises(BundleError, match="not an app project"):
        api.new_app(qwen, "toy", tmp_path / "mine", force=True)
    with pytest.raises(BundleError, match="not an app project"):
        api.check_app(tmp_path / "mine")


def test_the_command_shows_each_check_and_its_exit_code_says_failure(toy, qwen, tmp_path):
    words = ["app", "new", "--bundle", str(qwen), "--platform", "toy", "--out"]
    done = CliRunner().invoke(main, [*words, str(tmp_path / "app"), "--check"])
    assert done.exit_code == 0
    assert "not executed" in done.output and "there is none" in done.output
    (tmp_path / "app" / "assets" / "chat.json").write_text("{}")
    done = CliRunner().invoke(main, ["app", "check", str(tmp_path / "app"), "--json"])
    said = json.loads(done.output)
    assert done.exit_code == said["error"]["exit_code"] == 6
    assert [each["outcome"] for each in said["checks"]].count("failed") == 1
