"""Packages of Debian and of PyPI for another processor, unpacked into a folder: no root needed."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from slmkit.errors import BackendError

KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
NEWEST = 36  # the C library of Debian 12 is 2.36: wheels name the oldest that they run with
PLATFORMS = (
    *(f"manylinux_2_{minor}_aarch64" for minor in range(NEWEST, 16, -1)),
    "manylinux2014_aarch64",
)


def unpack_packages(
    architecture: str, root: Path, packages: Sequence[str], suite: str = ""
) -> None:
    """Download Debian packages with all that they need, and unpack them into ``root``.

    apt reads the sources of this computer, with a state of its own beside ``root``; ``suite``: of
    its first source another release, such as "trixie". Raises BackendError with apt's own last
    line.
    """
    if not (sys.platform == "linux" and shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise BackendError(
            "this computer cannot unpack Debian's packages: it has no apt-get and dpkg-deb",
            "set it up on Debian, or in a container of Debian",
        )
    state = root.with_name(f"{root.name}.apt")
    for part in ("lists/partial", "archives/partial"):
        (state / part).mkdir(parents=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Cache::archives": state / "archives",
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": getpass.getuser(),
        "Acquire::Languages": "none",
    }
    if suite:
        settings |= {
            "Dir::Etc::sourcelist": _source(suite, state),
            "Dir::Etc::sourceparts": "/dev/null",
        }
    command = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items())]
    _done([*command, "update"], "Debian's package lists cannot be had")
    download = ["-y", "--no-install-recommends", "--download-only", "install", *packages]
    _done([*command, *download], f"Debian's {packages[0]} for {architecture} cannot be had")
    root.mkdir(parents=True, exist_ok=True)
    for package in sorted((state / "archives").glob("*.deb")):
        _done(["dpkg-deb", "-x", str(package), str(root)], f"{package.name} cannot be unpacked")
    shutil.rmtree(state)


def _source(suite: str, state: Path) -> Path:
    """A list of sources with one release of the repository that this computer reads first."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    address = next((each for each in said if each.rstrip("/").endswith("/debian")), "")
    if not address or not KEYS.is_file():
        raise BackendError(f"no source of Debian's {suite} is known here", "try it on Debian")
    file = state / "sources.list"
    file.write_text(f"deb [signed-by={KEYS}] {address} {suite} main\n", encoding="utf-8")
    return file


def install_wheels(requirements: Sequence[str], python: str, site: Path) -> None:
    """Install wheels for Python ``python`` ("3.11") on arm64 into ``site``. Raises BackendError."""
    if find_spec("pip") is None:
        raise BackendError("this Python has no pip", "python -m ensurepip")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary=:all:",
        "--python-version",
        python,
        "--target",
        str(site),
        *(word for name in PLATFORMS for word in ("--platform", name)),
        *requirements,
    ]
    _done(command, f"wheels of {', '.join(requirements)} for arm64 cannot be had")


def _done(command: Sequence[str], why: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        last = said[-1].strip() if said else f"exit code {done.returncode}"
        raise BackendError(f"{why}: {last}", "is the network there? then set it up again")
