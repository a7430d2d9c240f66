"""A box: a small arm64 Linux with Python and pinned wheels in a folder, and qemu to run it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slmkit.backend.declaration import this_machine
from slmkit.devices.places.debian import install_wheels, unpack_packages
from slmkit.errors import BackendError
from slmkit.system.cache import default_folder
from slmkit.system.scratch import owned_folder

GUEST = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "zlib1g")
TOOLS = ("qemu-user-static",)
QEMU = ("qemu-aarch64-static", "qemu-aarch64")  # its names, of one that is installed too
FACTS = "box.json"
SETUP = "slmkit device setup qemu-arm64"
# Without it, a program under qemu reads the file of this computer. Of a processor that ONNX
# Runtime's cpuinfo knows; features come from the kernel's words, which qemu gives by its -cpu.
CPUINFO = """processor\t: 0
BogoMIPS\t: 48.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd03
CPU revision\t: 4

"""


@dataclass(frozen=True)
class Box:
    """A box in its folder."""

    folder: Path
    python: str  # "3.11"
    requirements: tuple[str, ...]

    @property
    def guest(self) -> Path:
        """The root of the arm64 system."""
        return self.folder / "guest"

    @property
    def site(self) -> Path:
        """The wheels."""
        return self.folder / "site"

    @property
    def qemu(self) -> Path:
        """qemu of this computer if it is installed, which may be newer; else the box's own."""
        installed = next(filter(None, map(shutil.which, QEMU)), None)
        return Path(installed or self.folder / QEMU[0])

    def command(self, cpu: str, script: Path, words: Sequence[str | Path]) -> list[str]:
        """The command that runs a Python script in the box."""
        settings = {
            "PYTHONPATH": self.site,
            "PYTHONHOME": self.guest / "usr",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LD_LIBRARY_PATH": "",
        }
        return [
            str(self.qemu),
            "-L",
            str(self.guest),
            "-cpu",
            cpu,
            *(word for name, value in settings.items() for word in ("-E", f"{name}={value}")),
            str(self.guest / "usr" / "bin" / f"python{self.python}"),
            str(script),
            *map(str, words),
        ]


def box_folder() -> Path:
    """Where the box lies: beside the cache's entries, which are limited in size; it is not."""
    return default_folder() / "devices" / "qemu-arm64"


def open_box(folder: Path | None = None) -> Box:
    """The box that was set up. Raises BackendError if there is none."""
    folder = folder or box_folder()
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return Box(folder, facts["python"], tuple(facts["requirements"]))
    except (OSError, ValueError, KeyError):
        raise BackendError("the place qemu-arm64 is not set up here", SETUP) from None


def check_wheels(box: Box, requirements: Sequence[str]) -> None:
    """Raise BackendError if the box has other wheels than these."""
    missing = [each for each in requirements if each not in box.requirements]
    if missing:
        raise BackendError(
            f"the box of qemu-arm64 has no {', '.join(missing)}: it has "
            f"{', '.join(box.requirements)}",
            SETUP,
        )


def make_box(requirements: Sequence[str], folder: Path | None = None) -> Box:
    """Make the box, or make it anew: it appears whole or not at all. Raises BackendError."""
    folder = folder or box_folder()
    with owned_folder(folder.parent) as making:
        new = making / "box"
        new.mkdir()
        unpack_packages("arm64", new / "guest", GUEST)
        unpack_packages("amd64" if _is_x86() else "arm64", making / "tools", TOOLS)
        (making / "tools" / "usr" / "bin" / QEMU[0]).rename(new / QEMU[0])
        python = max((new / "guest" / "usr" / "bin").glob("python3.*")).name[len("python") :]
        (new / "guest" / "proc").mkdir(exist_ok=True)
        (new / "guest" / "proc" / "cpuinfo").write_text(CPUINFO, encoding="ascii")
        install_wheels(requirements, python, new / "site")
        facts = {"python": python, "requirements": list(requirements)}
        (new / FACTS).write_text(json.dumps(facts), encoding="utf-8")
        if folder.exists():
            folder.rename(making / "older")
        folder.parent.mkdir(parents=True, exist_ok=True)
        new.rename(folder)
    return open_box(folder)


def _is_x86() -> bool:
    return this_machine().endswith(("x86_64", "AMD64"))
