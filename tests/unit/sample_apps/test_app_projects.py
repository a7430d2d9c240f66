"""``slmkit app new`` from the sample model and from models as the hub has them, and its checks."""

from __future__ import annotations

import json

import pytest

import app_tools
import slmkit
import tiers
from app_bundles import bundle_of
from slmkit.app.project import MODEL
from slmkit.app.template import read_template, templates
from slmkit.bundle.export import EXPORT
from slmkit.checkpoint.folder import SAMPLE_MODEL

BY_PYTHON = ("files and hashes", "golden cases", "tokenizer and chat, in Python")
NEVER = {  # on a computer like this
    platform: set(read_template(platform)[1].not_executed) for platform in templates()
}


def home(folder):
    """The sample model, with codes that need no calibration."""
    few = {"target": "android", "artifacts": ["ort"], "out": folder, "cache": False}
    return slmkit.build(SAMPLE_MODEL, recipe="int8", **few).path


MODELS = {
    "home on android": ("android", home),
    "qwen2 on android": ("android", lambda folder: bundle_of(folder, "qwen2", "qwen2")),
    "gemma3 on android": ("android", lambda folder: bundle_of(folder, "gemma3", "gemma")),
    "gemma3 on ios": ("ios", lambda folder: bundle_of(folder, "gemma3", "gemma", "ios", "coreml")),
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Bundles by name, each built when it is first asked for."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = MODELS[name][1](tmp_path_factory.mktemp("bundle"))
        return made[name]

    return get


def model_files(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in paths)


@pytest.mark.parametrize("name", MODELS)
def test_a_new_project_is_right_as_far_as_python_can_tell(name, bundles, tmp_path, monkeypatch):
    monkeypatch.setenv("SLMKIT_TOOLS", str(tmp_path / "none"))
    platform = MODELS[name][0]
    project = slmkit.new_app(bundles(name), platform, tmp_path / "app", app_id="org.my.chat")
    found = {each.name: each for each in slmkit.check_app(tmp_path / "app").checks}
    assert {name for name, each in found.items() if each.outcome == "passed"} == set(BY_PYTHON)
    others = [each for name, each in found.items() if name not in BY_PYTHON]
    assert all(each.outcome == "not executed" and each.why for each in others)
    assert project.inside and (tmp_path / "app" / project.models / "cases.json").is_file()
    own = [
        path for path in model_files(tmp_path / "app" / project.models / MODEL) if path != EXPORT
    ]
    told = json.loads((tmp_path / "app" / project.models / MODEL / EXPORT).read_text("utf-8"))
    assert own == sorted(file["path"] for file in told["files"])  # none of the sample app's own
    files = [path for path in (tmp_path / "app").rglob("*") if path.is_file()]
    assert not [path for path in files if b"dev.slmkit.sample" in path.read_bytes()]
    readme = (tmp_path / "app" / "README.md").read_text(encoding="utf-8")
    assert "{{" not in readme and "{%" not in readme and "org.my.chat" in readme


def test_the_form_of_gemma_s_template_puts_the_system_message_into_the_question(bundles, tmp_path):
    project = slmkit.new_app(bundles("gemma3 on android"), "android", tmp_path / "app")
    path = tmp_path / "app" / project.models / "chat.json"
    form = json.loads(path.read_text(encoding="utf-8"))
    assert form["system"]["opens_user"] and form["user"]["trim"]


@pytest.mark.full(tiers.TOOLS_OF_APPS)
@pytest.mark.parametrize("name", MODELS)
def test_a_new_project_passes_every_check_that_tools_allow(name, bundles, tmp_path, monkeypatch):
    platform = MODELS[name][0]
    scripts = {check.tools for check in read_template(platform)[1].checks}
    for script in scripts:
        app_tools.tools(script)  # skips where it cannot be had
    monkeypatch.setenv("SLMKIT_TOOLS", str(app_tools.TOOLS))
    slmkit.new_app(bundles(name), platform, tmp_path / "app", app_id="org.my.chat")
    report = slmkit.check_app(tmp_path / "app")
    report.check()
    left = {each.name: each.why for each in report.checks if each.outcome == "not executed"}
    if any("user namespaces" in why for why in left.values()):
        pytest.skip("this machine has no user namespaces, in which Swift's Debian tree would run")
    assert set(left) == NEVER[platform]
