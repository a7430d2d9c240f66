"""The wheel, in a fresh environment, works without the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A fresh environment that holds the wheel; its libraries are those of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT],
        check=True,
    )
    (wheel,) = folder.glob("slmkit-*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True, cwd=folder
    )
    # Libraries come by path, after the wheel: installing them again would test pip, not slmkit.
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")
    return folder / "venv" / "bin" / "slmkit"


def run(command: Path, *words: object, cwd: Path) -> str:
    done = subprocess.run(
        [command, *map(str, words)], capture_output=True, text=True, cwd=cwd, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_is_what_runs(installed, tmp_path):
    python = installed.with_name("python")
    where = run(python, "-c", "import slmkit; print(slmkit.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parents[1])


def test_the_version_and_the_type_markers_are_in_the_wheel(installed, tmp_path):
    (wheel,) = installed.parents[2].glob("slmkit-*.whl")
    said = run(installed, "--version", cwd=tmp_path).strip()
    assert said == f"slmkit, version {wheel.name.split('-')[1]}"
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names if name.endswith("/__init__.py")}
    assert tops == {"slmkit", "slmkit_onnx", "slmkit_coreml", "slmkit_litert", "slmkit_mlc"}
    assert {f"{top}/py.typed" for top in tops} <= names
    templates = {name for name in names if name.startswith("slmkit/sample_apps/")}
    assert {f"slmkit/sample_apps/{app}/template.json" for app in ("android", "ios")} <= templates
    assert not [
        name
        for name in templates
        if name.endswith(("/cases.json", ".data", "/weight.bin")) and "/vectors/" not in name
    ]  # the apps' own models


def test_the_source_distribution_gives_the_same_wheel(installed, tmp_path):
    """uv builds the wheel out of the sdist, without the repository beside it."""
    words = ["build", "--quiet", "--out-dir", str(tmp_path / "out"), str(ROOT)]
    subprocess.run([Path(sys.executable).with_name("uv"), *words], check=True, cwd=tmp_path)
    (made,) = (tmp_path / "out").glob("slmkit-*.whl")
    (sdist,) = (tmp_path / "out").glob("slmkit-*.tar.gz")
    (wheel,) = installed.parents[2].glob("slmkit-*.whl")
    assert sdist.stat().st_size > 0
    assert set(zipfile.ZipFile(made).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_help_and_recipes_are_in_the_wheel(installed, tmp_path):
    assert "Commands:" in run(installed, "--help", cwd=tmp_path)
    names = [each["name"] for each in json.loads(run(installed, "recipes", "--json", cwd=tmp_path))]
    assert {"int4", "int8", "float16"} <= set(names)


def test_every_backend_s_data_is_in_the_wheel(installed, tiny, tmp_path):
    """By a tiny model: what differs from a checkout is files that are missing."""
    words = ("build", "--model", tiny("llama"), "--target", "android", "--soc", "sm8650", "--json")
    built = json.loads(run(installed, *words, "--artifacts", "hexagon,litert", cwd=tmp_path))
    assert built["passed"]
    assert {line["artifact"] for line in built["comparisons"]} == {"hexagon", "litert", "all"}
    data = "from slmkit_mlc.gpus import known_gpus; from slmkit_mlc.contract import contract"
    python = installed.with_name("python")
    run(python, "-c", f"{data}; assert known_gpus() and contract()", cwd=tmp_path)


def test_the_sample_model_is_in_the_wheel_and_can_be_built(installed, tmp_path):
    words = ("build", "--target", "android", "--artifacts", "ort", "--json")
    built = json.loads(run(installed, *words, cwd=tmp_path))
    assert built["passed"]
    said = run(installed, "run", built["bundle"], "--prompt", "wake me at seven", cwd=tmp_path)
    assert json.loads(said)["intent"] == "alarm"
    new = ("app", "new", "--bundle", built["bundle"], "--platform", "android", "--out", "app")
    report = json.loads(run(installed, *new, "--check", "--json", cwd=tmp_path))
    outcomes = [each["outcome"] for each in report["checks"]]
    assert outcomes[:3] == ["passed"] * 3 and "failed" not in outcomes
