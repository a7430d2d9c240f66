"""An arm64 computer for tests: Debian packages and arm64 wheels, unpacked, and qemu."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GUEST = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6", "zlib1g")
TOOLS = ("qemu-user-static", "binutils-aarch64-linux-gnu")
WHEELS = ("apache-tvm", "apache-tvm-ffi")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64")
MINUTES = 5


class Arm64:
    """Folders of a small arm64 system, of tools for it, and of Python packages."""

    def __init__(self, folder: Path) -> None:
        self.guest, self.tools, self.site = (folder / name for name in ("guest", "tools", "site"))
        if shutil.which("apt-get") is None or sys.platform != "linux":
            pytest.skip("Debian's packages cannot be had here: there is no apt-get")
        _unpacked("arm64", self.guest, GUEST)
        _unpacked("amd64", self.tools, TOOLS)
        self._install()

    def _install(self) -> None:
        from importlib.metadata import version

        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:",
            "--python-version", "3.11", "--target", str(self.site),
            *(word for name in PLATFORMS for word in ("--platform", name)),
            *(f"{name}=={version(name)}" for name in WHEELS),
        ]  # fmt: skip
        _or_skip(command, "arm64 wheels cannot be had")

    def tool(self, name: str, *words: str | Path) -> str:
        """Run one of the cross tools; what it prints."""
        libraries = next((self.tools / "usr" / "lib").glob("x86_64-*"))
        return subprocess.run(
            [self.tools / "usr" / "bin" / f"aarch64-linux-gnu-{name}", *words],
            env={"LD_LIBRARY_PATH": str(libraries)}, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip

    def link(self, output: str, objects: list[str], *_: object, **__: object) -> None:
        """Objects to a shared library, as TVM asks a compiler for it."""
        self.tool("ld", "-shared", "-o", output, *objects)

    def python(self, script: Path, *words: str | Path) -> None:
        """Run a script in the arm64 Python."""
        subprocess.run(
            [
                self.tools / "usr" / "bin" / "qemu-aarch64-static", "-L", self.guest, "-cpu", "max",
                "-E", f"PYTHONPATH={self.site}", "-E", f"PYTHONHOME={self.guest / 'usr'}",
                "-E", "PYTHONDONTWRITEBYTECODE=1", self.guest / "usr" / "bin" / "python3.11",
                script, *words,
            ],
            check=True, timeout=60 * MINUTES,
        )  # fmt: skip


def _unpacked(architecture: str, root: Path, packages: tuple[str, ...]) -> None:
    """Download packages with a state of their own, and unpack them."""
    state = root.with_suffix(".apt")
    for part in ("lists/partial", "archives/partial"):
        (state / part).mkdir(parents=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": architecture, "APT::Architectures": architecture,
        "Dir::State::lists": state / "lists", "Dir::State::status": state / "status",
        "Dir::Cache": state, "Dir::Cache::archives": state / "archives",
        "Debug::NoLocking": "1", "APT::Sandbox::User": os.environ.get("USER", "root"),
        "Acquire::Languages": "none",
    }  # fmt: skip
    command = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items())]
    _or_skip([*command, "update"], "Debian's package lists cannot be had")
    download = ["-y", "--no-install-recommends", "--download-only", "install", *packages]
    _or_skip([*command, *download], f"Debian's {packages[0]} cannot be had")
    for package in (state / "archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, root], check=True)
    shutil.rmtree(state)


def _or_skip(command: list[str], why: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{why}: {done.stderr.strip().splitlines()[-1:]}")
