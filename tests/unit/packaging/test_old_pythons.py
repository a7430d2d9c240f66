"""On a Python that is too old, one sentence says what is needed, before pip fails."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from extras import ROOT

OLD = tuple(f"3.{minor}" for minor in range(6, 11))
NEEDED = "slmkit needs Python 3.11 or newer"


def find_python(version: str) -> str:
    """An interpreter of this version: on the path, or among pyenv's. Skips if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))]
    for each in map(str, filter(None, found)):
        done = subprocess.run([each, "--version"], capture_output=True, text=True)
        if done.returncode == 0:  # a shim of pyenv may stand for nothing
            return each
    pytest.skip(f"there is no Python {version} on this machine")


@pytest.mark.parametrize("version", OLD)
def test_the_command_says_what_is_needed(version, tmp_path):
    done = subprocess.run(
        [find_python(version), "-m", "slmkit", "doctor"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "toolkit")},
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"{NEEDED}; this is Python {version}.")


@pytest.mark.parametrize("target", ["demo", "test", "lint"])
@pytest.mark.parametrize("version", ["2.7", *OLD])
def test_make_says_what_is_needed(version, target, tmp_path):
    done = subprocess.run(
        ["make", target, f"PYTHON={find_python(version)}", f"VENV={tmp_path / 'venv'}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2
    sentence, stopped = done.stderr.splitlines()
    assert sentence.startswith(NEEDED)
    assert f"is Python {version}." in sentence
    assert re.match(r"make(\[\d+\])?: \*\*\*", stopped)
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("name", ["__init__", "__main__"])
def test_what_an_old_python_reads_first_has_old_syntax(name):
    text = (ROOT / "toolkit" / "slmkit" / f"{name}.py").read_text(encoding="utf-8")
    tree = ast.parse(text, feature_version=(3, 6))
    assert "annotations" not in {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
        for alias in node.names
    }  # Python 3.6 does not know that one
