"""slmkit init: the files that it writes are read again, and what does not fit is refused."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_line import slmkit
from slmkit.cli.commands.starting import RECIPE, toml_text
from slmkit.cli.defaults import OWN
from slmkit.recipe.recipe import load_recipe

SMALL = ("--target", "android", "--artifacts", "ort")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_written_is_what_plan_and_build_read(here):
    shown = slmkit("init", *SMALL, "--context", "64").stdout
    assert "Galaxy S23" in shown and "int4-compact" in shown
    assert {path.name for path in here.iterdir()} == {OWN, RECIPE}
    recipe, shipped = load_recipe(RECIPE), load_recipe("int4")
    assert (recipe.name, recipe.context_length) == ("own", 64)
    assert recipe.weights == shipped.weights and recipe.parity == shipped.parity
    planned = json.loads(slmkit("plan", "--json").stdout)
    assert (planned["target"], planned["recipe"]) == ("android", "own")
    assert [each["artifact"] for each in planned["artifacts"]] == ["ort"]
    assert planned["context_length"] == 64


def test_named_phones_set_the_limit_of_memory(here):
    said = slmkit("init", *SMALL, "--phones", "Galaxy S23,OnePlus 12", "--recipe", "int8", "--json")
    found = json.loads(said.stdout)
    assert found["recipe"] == "int8" and found["build"]["memory-limit"] == 4.0
    assert tomllib.loads((here / OWN).read_text())["plan"] == found["build"]
    assert json.loads(slmkit("plan", "--json").stdout)["memory_limit"] == 4 * 10**9


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (2, (), "--target is missing"),
        (1, ("--target", "phone"), "there is no target 'phone'"),
        (2, (*SMALL, "--recipe", "int5"), "slmkit ships no recipe 'int5'"),
        (2, (*SMALL, "--phones", "Nokia 3310"), "no public figures of a phone 'Nokia 3310'"),
        (2, (*SMALL, "--context", "999999"), "--context 999999 is outside"),
        (1, (*SMALL, "--model", "nowhere"), "nowhere does not exist"),
    ],
)
def test_a_wrong_option_is_a_sentence_and_leaves_nothing(here, code, words, said):
    assert said in slmkit("init", *words, expect=code).stderr
    assert list(here.iterdir()) == []


def test_a_model_that_no_phone_carries_is_refused_with_the_reason(here):
    config = {
        "model_type": "llama",
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
    }
    path = here / "config.json"
    path.write_text(json.dumps(config))
    refused = slmkit("init", *SMALL, "--model", str(path), expect=4)
    assert "no shipped recipe fits with every artifact" in refused.stderr
    assert "none" in refused.stdout and "the model needs" in refused.stderr
    assert list(here.iterdir()) == [path]


@pytest.mark.parametrize("name", [OWN, RECIPE])
def test_older_files_are_replaced_by_force_alone(here, name):
    (here / name).write_text("")
    assert f"{name} exists" in slmkit("init", *SMALL, expect=2).stderr
    assert (here / name).read_text() == "" and len(list(here.iterdir())) == 1
    slmkit("init", *SMALL, "--force")
    assert (here / name).read_text()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_the_same_after_toml(text):
    values = {"model": text, "memory-limit": 2.5}
    assert tomllib.loads(toml_text(values)) == {"build": values, "plan": values}


def test_on_a_terminal_it_asks(here):
    ours, theirs = pty.openpty()
    path = os.pathsep.join(filter(None, sys.path))
    words = [sys.executable, "-m", "slmkit", "init", "--artifacts", "ort"]
    with subprocess.Popen(
        words,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        os.write(ours, b"\nandroid\nint8\n")
        out, _ = process.communicate(timeout=300)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0, out
    assert load_recipe(RECIPE).summary == "int8 for home on android."
    assert tomllib.loads((here / OWN).read_text())["build"] == {
        "target": "android",
        "recipe": RECIPE,
        "artifacts": "ort",
    }
