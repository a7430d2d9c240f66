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

import pytest

from extras import MACHINES, PYTHONS, ROOT, packages
from slmkit.backend.registry import declarations

uv = pytest.importorskip("uv", reason="the package uv resolves; it comes with the extra test")
MACOS = "14.0"  # the oldest that onnxruntime has wheels for
PLATFORMS = {  # in uv's words; Linux by the oldest glibc that onnxruntime-qnn has wheels for
    "linux-x86_64": "x86_64-manylinux_2_35",
    "linux-aarch64": "aarch64-manylinux_2_35",
    "darwin-arm64": "aarch64-apple-darwin",
    "win32-AMD64": "x86_64-pc-windows-msvc",
}
INSTALLS = {  # each extra, and the machines that it can be installed on, with every Python
    "ort": {"linux-x86_64", "linux-aarch64", "darwin-arm64", "win32-AMD64"},
    "hexagon": {"linux-x86_64", "linux-aarch64", "win32-AMD64"},
    "coreml": {"linux-x86_64", "darwin-arm64"},
    "litert": {"linux-x86_64", "linux-aarch64", "darwin-arm64", "win32-AMD64"},
    "mlc": {"linux-x86_64", "linux-aarch64", "darwin-arm64", "win32-AMD64"},
    "genai": {"linux-x86_64", "linux-aarch64", "darwin-arm64", "win32-AMD64"},
    "opencl": {"linux-x86_64", "linux-aarch64", "darwin-arm64", "win32-AMD64"},
    "all": {"linux-x86_64", "linux-aarch64", "darwin-arm64", "win32-AMD64"},
    "test": {"linux-x86_64", "linux-aarch64", "darwin-arm64", "win32-AMD64"},
}
ALONE = ("hexagon", "coreml")  # not for every machine; "test" takes all others along
OLDEST_GLIBC = {"ort": "2_28", "litert": "2_28", "mlc": "2_28", "hexagon": "2_35"}  # of x86_64
OLDER = {"2_28": "2_17", "2_35": "2_34"}  # the next older glibc that uv knows wheels of
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
        resolve("click", PLATFORMS["linux-x86_64"], PYTHONS[0])
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
    """What "test" and the extras beside it install on every machine with every Python."""
    asked = list(product(("test", *ALONE), MACHINES, PYTHONS))
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(
            lambda each: resolve(wheel.format(each[0]), PLATFORMS[each[1]], each[2]), asked
        )
        return dict(zip(asked, found, strict=True))


@pytest.mark.parametrize("extra", INSTALLS)
def test_an_extra_installs_where_it_is_said_to(resolved, extra):
    found = set()
    for machine, python in product(MACHINES, PYTHONS):
        brought = resolved[extra if extra in ALONE else "test", machine, python] or set()
        if packages(extra, machine) <= brought:
            found.add((machine, python))
    assert found == set(product(INSTALLS[extra], PYTHONS))


def test_all_brings_the_artifacts_of_a_machine_and_nothing_for_others(resolved):
    apart = {name for machine in MACHINES for name in packages("all", machine)}
    for machine, python in product(MACHINES, PYTHONS):
        brought = resolved["test", machine, python] or set()
        assert brought & apart == packages("all", machine), (machine, python)


@pytest.mark.parametrize("extra", OLDEST_GLIBC)
def test_the_oldest_linux_of_an_extra(wheel, extra):
    oldest = OLDEST_GLIBC[extra]
    requirement, python = wheel.format(extra), PYTHONS[0]
    assert resolve(requirement, f"x86_64-manylinux_{oldest}", python)
    assert resolve(requirement, f"x86_64-manylinux_{OLDER[oldest]}", python) is None


def test_every_artifact_has_a_row():
    assert {each.extra for each in declarations().values()} <= set(INSTALLS)
