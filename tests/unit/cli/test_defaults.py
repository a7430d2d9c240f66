"""Defaults of options out of slmkit.toml, pyproject.toml and the environment."""

from __future__ import annotations

import json

import pytest

from command_line import slmkit


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(*words):
    return json.loads(slmkit("plan", *words, "--json").stdout)


@pytest.mark.parametrize(
    ("name", "head"), [("slmkit.toml", "[plan]"), ("pyproject.toml", "[tool.slmkit.plan]")]
)
def test_a_file_has_the_defaults_and_words_go_before_it(here, name, head):
    (here / name).write_text(f'{head}\ntarget = "ios"\nrecipe = "int8"\ncontext = 64\n')
    assert planned()["target"] == "ios" and planned()["context_length"] == 64
    found = planned("--target", "android", "--context", "32")
    assert (found["target"], found["recipe"], found["context_length"]) == ("android", "int8", 32)


def test_our_own_file_goes_before_the_project_s(here):
    (here / "slmkit.toml").write_text('[plan]\ntarget = "ios"\n')
    (here / "pyproject.toml").write_text('[tool.slmkit.plan]\ntarget = "android"\n')
    assert planned()["target"] == "ios"


def test_the_environment_goes_before_a_file(here, monkeypatch):
    (here / "slmkit.toml").write_text('[plan]\ntarget = "ios"\n')
    monkeypatch.setenv("SLMKIT_PLAN_TARGET", "android")
    assert planned()["target"] == "android"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[plan", "is not TOML"),
        ("[paln]\n", "[paln] is no command's table"),
        ("plan = 3\n", "[plan] is no command's table"),
        ("[plan]\ntraget = 1\n", "plan has no option traget"),
        ('[plan]\ntarget = "android"\ncontext = "many"\n', "'many' is not a valid integer"),
        ('[app.new]\nplatfrom = "ios"\n', "new has no option platfrom"),
    ],
)
def test_what_is_wrong_is_said(here, text, said):
    (here / "slmkit.toml").write_text(text)
    assert said in slmkit("plan", "--target", "android", expect=2).stderr


@pytest.mark.parametrize("text", ["not TOML at all [", "[tool.other]\nx = 1\n"])
def test_a_project_of_others_is_left_alone(here, text):
    (here / "pyproject.toml").write_text(text)
    assert planned("--target", "android")["target"] == "android"
