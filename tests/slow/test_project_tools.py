"""The tools of the extra ``dev``, in an environment of their own, take what the project has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import slmkit
from extras import EXTRAS, ROOT
from slmkit.checkpoint.folder import SAMPLE_MODEL

WORKFLOW = ROOT / "docs" / "pages" / "examples" / "ci.yml"
OTHER = (".git", ".venv", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
UNTIDY = '"""A module."""\n\nimport os\n\nvalue: int = "one"\nx=1\n'  # one fault for each hook
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
pytestmark = pytest.mark.own_environment


@pytest.fixture(scope="module")
def tools() -> Iterator[Path]:
    """The folder of the programs of ``dev``; removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="slmkit-dev-") as folder:
        venv.create(folder, with_pip=True)
        bin_folder = Path(folder) / "bin"
        command = [bin_folder / "python", "-m", "pip", "install", "--quiet", *EXTRAS["dev"]]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no environment with {' '.join(EXTRAS['dev'])}: {done.stderr[-200:]}")
        yield bin_folder


@pytest.fixture
def clone(tmp_path) -> Path:
    """The sources as a repository of its own, all of them added."""
    folder = tmp_path / "clone"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*OTHER))
    run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    return folder


def run(*words: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environment)


def hook(tools: Path, clone: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Run one hook over what is staged, in this environment."""
    home = {"VIRTUAL_ENV": sys.prefix, "PRE_COMMIT_HOME": str(clone.parent / "pre-commit")}
    return run(tools / "pre-commit", "run", name, "--all-files", cwd=clone, **home)


def test_the_draft_of_the_changelog_holds_every_change(tools):
    done = run(tools / "towncrier", "build", "--draft", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"## {slmkit.__version__} (")
    folder = ROOT / TOOLS["towncrier"]["directory"]
    for path in set(folder.glob("*.md")) - {folder / "README.md"}:
        assert path.read_text(encoding="utf-8").strip() in done.stdout, path.name


def test_a_release_puts_its_section_above_the_older_ones(tools, clone):
    (clone / "docs" / "changes" / "1.fix.md").write_text("A thing that was wrong is right.\n")
    done = run(
        tools / "towncrier",
        "build",
        "--keep",
        "--version",
        "9.9",
        "--date",
        "2031-01-02",
        cwd=clone,
    )
    assert done.returncode == 0, done.stderr
    text = (clone / "CHANGELOG.md").read_text(encoding="utf-8")
    start = text.index(TOOLS["towncrier"]["start_string"])
    newest = text.index("## 9.9 (2031-01-02)")
    change = text.index("- A thing that was wrong is right. (#1)")
    older = text.index("## First preview")
    assert start < newest < change < older


def test_the_commands_of_the_example_workflow_build_a_bundle(tmp_path):
    shutil.copytree(SAMPLE_MODEL, tmp_path / "model")
    program = tmp_path / "bin" / "slmkit"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m slmkit "$@"\n')
    program.chmod(0o755)
    steps = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["bundle"]["steps"]
    commands = [step["run"] for step in steps if step.get("run", "").startswith("slmkit ")]
    assert len(commands) == 3
    variables = {
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(str(ROOT / each) for each in ("toolkit", "targets")),
        "SLMKIT_CACHE": str(tmp_path / ".slmkit-cache"),
    }
    for command in commands:  # as a runner of GitHub runs them
        done = run("bash", "-e", "-o", "pipefail", "-c", command, cwd=tmp_path, **variables)
        assert done.returncode == 0, done.stderr
    for step in steps:
        for path in str(step.get("with", {}).get("path", "")).split():
            assert (tmp_path / path).exists(), path


def test_the_hooks_before_a_commit_are_those_of_make_lint(tools, clone):
    assert run(tools / "pre-commit", "validate-config", cwd=clone).returncode == 0
    for name in ("ruff", "ruff-format", "mypy"):
        done = hook(tools, clone, name)
        assert done.returncode == 0, done.stdout
    (clone / "toolkit" / "slmkit" / "untidy.py").write_text(UNTIDY, encoding="utf-8")
    run("git", "add", "--all", cwd=clone)
    for name, fault in (
        ("ruff", "F401"),
        ("ruff-format", "1 file would be reformatted"),
        ("mypy", "Incompatible types in assignment"),
    ):
        done = hook(tools, clone, name)
        assert done.returncode == 1, name
        assert fault in done.stdout, name
