"""The command that brings extras: true in a clone, and for an installed package."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from slmkit.system.installing import clone_folder, own_requirement

ROOT = Path(__file__).resolve().parents[3]
ASK = "from slmkit.system.installing import own_requirement; print(own_requirement(['ort', 'mlc']))"


def test_a_clone_is_named_by_its_folder(monkeypatch, tmp_path):
    assert clone_folder() == ROOT
    monkeypatch.chdir(ROOT)
    assert own_requirement(["ort", "mlc"]) == '-e ".[ort,mlc]"'
    monkeypatch.chdir(tmp_path)
    assert own_requirement(["ort", "mlc"]) == f'-e "{ROOT}[ort,mlc]"'


def test_an_installed_package_is_named_by_its_name(tmp_path):
    """The package's files alone, where pip puts them; a project of another's is no clone of it."""
    copy = tmp_path / "project" / "src" / "slmkit"
    for name in ("__init__.py", "system/__init__.py", "system/installing.py"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        text = "" if name.endswith("__init__.py") else (ROOT / "toolkit/slmkit" / name).read_text()
        (copy / name).write_text(text)
    (tmp_path / "project" / "pyproject.toml").write_text('[project]\nname = "mine"\n')
    environment = {**os.environ, "PYTHONPATH": str(copy.parent)}
    done = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.stdout.strip() == '"slmkit[ort,mlc]"', done.stderr


def test_pip_reads_the_command_of_a_clone(tmp_path, monkeypatch):
    """A folder with spaces too, in a shell: pip finds the project and the extras in it."""
    pip = pytest.importorskip("pip._internal.req.constructors", reason="pip is not installed here")
    clone = tmp_path / "a clone"
    clone.mkdir()
    (clone / "pyproject.toml").write_text('[project]\nname = "slmkit"\n')
    monkeypatch.setattr("slmkit.system.installing.clone_folder", lambda: clone)
    flag, place = shlex.split(own_requirement(["ort", "mlc"]))
    name, url, extras = pip.parse_editable(place)
    assert flag == "-e" and name is None and extras == {"ort", "mlc"}
    assert re.sub("%20", " ", url) == clone.as_uri().replace("%20", " ")
