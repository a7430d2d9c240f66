"""Which extras can be installed where, as the package index has it today.

The wheel is resolved from package metadata for machines that are not here, with wheels alone: a
source package that must be compiled counts as none. What installs is not what was run: slmkit is
tested on Linux x86_64.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest

from slmkit.backend.registry import declarations

uv = pytest.importorskip("uv", reason="the package uv resolves; it comes with the extra test")
ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13")
MACOS = "14.0"  # the oldest that onnxruntime has wheels for
MACHINES = {  # uv's names; Linux by the oldest glibc that onnxruntime-qnn has wheels for
    "Linux x86_64": "x86_64-manylinux_2_35",
    "Linux aarch64": "aarch64-manylinux_2_35",
    "macOS arm64": "aarch64-apple-darwin",
    "Windows x86_64": "x86_64-pc-windows-msvc",
}
INSTALLS = {  # each extra, and the machines that it can be installed on, with every Python
    "ort": {"Linux x86_64", "Linux aarch64", "macOS arm64", "Windows x86_64"},
    "hexagon": {"Linux x86_64", "Linux aarch64", "Windows x86_64"},
    "coreml": {"Linux x86_64", "macOS arm64"},
    "litert": {"Linux x86_64", "Linux aarch64", "macOS arm64", "Windows x86_64"},
    "mlc": {"Linux x86_64", "Linux aarch64", "macOS arm64", "Windows x86_64"},
    "genai": {"Linux x86_64", "Linux aarch64", "macOS arm64", "Windows x86_64"},
    "opencl": {"Linux x86_64", "Linux aarch64", "macOS arm64", "Windows x86_64"},
    "all": {"Linux x86_64", "Linux aarch64", "macOS arm64", "Windows x86_64"},
    "test": {"Linux x86_64", "Linux aarch64", "macOS arm64", "Windows x86_64"},
}
ONLY_THERE = {  # packages that ``all`` takes to some machines alone
    "onnxruntime-qnn": {"Linux x86_64"},
    "coremltools": {"Linux x86_64", "macOS arm64"},
    "tensorflow-cpu": {"Linux x86_64", "Windows x86_64"},
    "tensorflow": {"Linux aarch64", "macOS arm64"},
}
OLDEST_GLIBC = {"ort": "2_28", "litert": "2_28", "mlc": "2_28", "hexagon": "2_35"}  # of x86_64
WITHOUT = {"2_28": "2_27", "2_35": "2_34"}  # the glibc before it
pytestmark = pytest.mark.own_environment


def resolve(requirement: str, platform: str, python: str) -> set[str] | None:
    """Names of the packages that would be installed; None if there is no solution."""
    command = [uv.find_uv_bin(), "pip", "compile", "--quiet", "--only-binary", ":all:"]
    command += ["--no-header", "--no-annotate", "--python-platform", platform]
    done = subprocess.run(
        [*command, "--python-version", python, "-"],
        input=requirement,
        capture_output=True,
        text=True,
        env={**os.environ, "MACOSX_DEPLOYMENT_TARGET": MACOS},
    )
    if "No solution found" in done.stderr:
        return None
    if done.returncode:
        raise RuntimeError(done.stderr)
    return {line.split(" @ ")[0].split("==")[0] for line in done.stdout.splitlines()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> str:
    """The wheel as a requirement without its extras. Its metadata is not pyproject.toml's: extras
    within extras are unfolded."""
    try:
        resolve("click", MACHINES["Linux x86_64"], PYTHONS[0])
    except RuntimeError as error:
        pytest.skip(f"the package index cannot be reached: {str(error)[-200:]}")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT],
        check=True,
    )
    (path,) = folder.glob("slmkit-*.whl")
    return f"slmkit[{{}}] @ {path.as_uri()}"


@pytest.fixture(scope="module")
def resolved(wheel) -> dict[tuple[str, str, str], set[str] | None]:
    """Every extra on every machine with every Python, eight at a time."""
    asked = list(product(INSTALLS, MACHINES, PYTHONS))
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(
            lambda each: resolve(wheel.format(each[0]), MACHINES[each[1]], each[2]), asked
        )
        return dict(zip(asked, found, strict=True))


@pytest.mark.parametrize("extra", INSTALLS)
def test_an_extra_installs_where_it_is_said_to(resolved, extra):
    found = {
        (machine, python)
        for machine, python in product(MACHINES, PYTHONS)
        if resolved[extra, machine, python] is not None
    }
    assert found == set(product(INSTALLS[extra], PYTHONS))


@pytest.mark.parametrize("package", ONLY_THERE)
def test_all_takes_a_package_only_to_its_machines(resolved, package):
    for machine, python in product(MACHINES, PYTHONS):
        there = machine in ONLY_THERE[package]
        assert (package in (resolved["all", machine, python] or set())) == there, machine


@pytest.mark.parametrize("extra", OLDEST_GLIBC)
def test_the_oldest_linux_of_an_extra(wheel, extra):
    oldest = OLDEST_GLIBC[extra]
    requirement, python = wheel.format(extra), PYTHONS[0]
    assert resolve(requirement, f"x86_64-manylinux_{oldest}", python)
    assert resolve(requirement, f"x86_64-manylinux_{WITHOUT[oldest]}", python) is None


def test_every_artifact_has_a_row():
    assert {each.extra for each in declarations().values()} <= set(INSTALLS)
