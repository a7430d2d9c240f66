"""A backend of an outside package, found by its entry point: chosen, built, proved and shown.

The package lies in ``tests/fixtures/outside_backend`` as pip would have installed it, and is on the
import path of these tests' commands alone. Nothing in slmkit knows it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

OUTSIDE = Path(__file__).resolve().parents[2] / "fixtures" / "outside_backend"


@pytest.fixture
def slmkit(tmp_path):
    """Runs a command with the outside package installed."""
    path = os.pathsep.join([str(OUTSIDE), *filter(None, sys.path)])

    def run(*words, expect=0):
        done = subprocess.run(
            [sys.executable, "-m", "slmkit", *map(str, words)],
            env={**os.environ, "PYTHONPATH": path},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout if expect == 0 else done.stderr

    return run


def test_it_is_listed_with_the_target_that_it_brings(slmkit):
    targets = {each["name"]: each for each in json.loads(slmkit("targets", "--json"))}
    assert targets["desktop"]["artifacts"] == ["abacus"]
    assert targets["desktop"]["memory_limit"] == 8 * 10**9
    assert targets["android"]["artifacts"][-1] == "abacus"
    assert "abacus (abacus)" in slmkit("doctor")
    assert "--beads" in slmkit("build", "--help")


def test_it_is_chosen_built_proved_and_shown(slmkit, tiny):
    model = tiny("gemma2")
    words = ("--target", "desktop", "--model", model, "--context", 64)
    planned = json.loads(slmkit("plan", *words, "--json"))
    assert [each["artifact"] for each in planned["artifacts"]] == ["abacus"]
    said = slmkit("build", *words, "--beads", 12, "--details")
    assert "app new" not in said and "slmkit export" not in said  # which it has no part in
    assert "abacus exact" in said and "beads/exact" in said
    assert "abacus 12 beads on each wire" in said
    bundle = f"dist/{model.name}-desktop-int4"
    manifest = json.loads(slmkit("inspect", bundle, "--json"))
    assert manifest["recipe"]["parity"]["beads"]["snr_db"] == 25
    assert manifest["artifacts"][0]["facts"]["beads"] == 12
    assert "abacus: a real abacus" in manifest["not_executed"]
    by_error = {each["error"]: each["metrics"]["snr_db"] for each in manifest["parity"]}
    assert by_error["lowering"] > 100 > by_error["beads"] > 25
    assert "abacus wires" in slmkit("inspect", bundle)
    checked = json.loads(slmkit("parity", bundle, "--model", model, "--json"))
    assert checked["passed"] and len(checked["comparisons"]) == 4  # one is of the long text
    assert slmkit("run", bundle, "--prompt", "the quick", "--max-tokens", 4)


def test_it_stands_beside_the_built_in_ones(slmkit, tiny):
    words = ("--target", "android", "--artifacts", "ort,abacus", "--model", tiny("qwen3"))
    found = json.loads(slmkit("build", *words, "--option", "abacus.beads=16", "--json"))
    assert {each["artifact"] for each in found["comparisons"]} == {"ort", "abacus", "all"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--beads", 3), 4, "artifacts.abacus.beads is 3, expected one of 8, 12, 16"),
        (("--option", "abacus.wires=3"), 4, "artifacts.abacus.wires: unknown key; known: beads"),
        (("--artifacts", "ort"), 2, "the target desktop has no artifact 'ort'"),
    ],
)
def test_its_options_are_checked(slmkit, tiny, words, code, said):
    asked = ("build", "--target", "desktop", "--model", tiny("llama"))
    assert said in slmkit(*asked, *words, expect=code)


def test_its_refusal_is_the_build_s(slmkit, tiny):
    asked = ("build", "--target", "desktop", "--model", tiny("lfm2"))
    assert "abacus keeps no recurrent states" in slmkit(*asked, expect=4)


def test_a_bound_of_its_error_can_fail(slmkit, tiny, tmp_path):
    recipe = {"name": "strict", "summary": "mine", "extends": "int4"}
    bounds = {"parity": {"beads": {"snr_db": 90}}}
    (tmp_path / "strict.yaml").write_text(json.dumps({**recipe, **bounds}), encoding="utf-8")
    asked = ("build", "--target", "desktop", "--model", tiny("llama"), "--recipe", "strict.yaml")
    assert "abacus rounded: SNR" in slmkit(*asked, "--beads", 8, expect=3)


def test_nothing_in_slmkit_names_a_backend():
    known = ("hexagon", "coreml", "litert", "mlc", "abacus", "ort")
    toolkit = Path(__file__).resolve().parents[3] / "toolkit" / "slmkit"
    for path in toolkit.rglob("*.py"):
        words = path.read_text(encoding="utf-8").replace("_", " ").replace(".", " ").split()
        named = {word.strip("\"'`,;:()[]{}") for word in words} & set(known)
        assert not named, f"{path.name} names {named}"
