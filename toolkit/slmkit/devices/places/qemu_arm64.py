"""qemu-arm64[:PROFILE]: the runtimes' own arm64 wheels under qemu's user emulation.

It computes bit by bit as a processor of the profile would, by the kernels that the runtime chooses
for one. Its times say nothing of silicon.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmkit.devices.places.box import SETUP, Box, check_wheels, open_box
from slmkit.devices.places.place import MODEL, RUN, Payload, last_words
from slmkit.errors import BackendError, RefusedError, UsageError
from slmkit.system.scratch import scratch

SECONDS = 3600  # that a job may take
WHERE = "qemu-arm64"


@dataclass(frozen=True)
class Profile:
    """A processor that qemu computes like."""

    cpu: str  # of qemu's -cpu
    about: str
    least_qemu: int = 0
    why: str = ""  # an older one will not do


PROFILES = {
    "a53": Profile("cortex-a53", "Armv8.0, Cortex-A53: no dot products of bytes"),
    "a76": Profile("cortex-a76", "Armv8.2, Cortex-A76: dot products of bytes"),
    "i8mm": Profile("max,sve=off,sme=off", "Armv8.6: matrix products of bytes, no SVE"),
    "sve2": Profile("max,sme=off", "Armv9 with SVE2"),
    "sme": Profile(
        "max",
        "Armv9 with SME",
        least_qemu=10,
        why="its SME computes other numbers (LiteRT's of the sample model: 8.7 dB instead of 40.9)",
    ),
}
DEFAULT = "a76"


class QemuArm64:
    """One profile, run in the box."""

    system = "Linux"

    def __init__(self, profile: str = DEFAULT, box: Box | None = None) -> None:
        if profile not in PROFILES:
            raise UsageError(
                f"qemu-arm64 has no profile {profile!r}", f"profiles: {', '.join(PROFILES)}"
            )
        self.name, self.profile = f"{WHERE}:{profile}", PROFILES[profile]
        self.box = box or open_box()
        version = qemu_version(self.box.qemu)
        self.emulated = f"qemu {version}, {self.profile.cpu}"
        if int(version.partition(".")[0]) < self.profile.least_qemu:
            raise RefusedError(
                f"the profile {profile} needs qemu {self.profile.least_qemu}, and this is "
                f"{version}: {self.profile.why}",
                "put a newer qemu-aarch64 on the PATH, or choose another profile",
            )

    def prepare(self, payload: Payload) -> None:
        """Nothing is copied: only the wheels must be those of the payload."""
        check_wheels(self.box, payload.requirements)

    def execute(self, payload: Payload, job: Mapping[str, Any], out: Path) -> None:
        """Run a job in the box."""
        with scratch() as folder:
            payload.stage(folder)
            job_file = folder / "job.json"
            job_file.write_text(json.dumps({**job, "folder": str(folder / MODEL)}))
            command = self.box.command(self.profile.cpu, folder / RUN, [job_file, out])
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=SECONDS, check=False
                )
            except subprocess.TimeoutExpired:
                raise BackendError(
                    f"{self.name} took longer than {SECONDS // 60} minutes", "try a smaller model"
                ) from None
            if done.returncode:
                raise BackendError(f"{self.name}: {_ending(done)}", "slmkit doctor, or report it")


def qemu_version(path: Path) -> str:
    """qemu's version, "7.2.22". Raises BackendError if it does not run."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise BackendError(f"{path} cannot be run: {error.strerror}", SETUP) from None
    found = re.search(r"version (\d+(\.\d+)+)", said.stdout)
    if found is None:
        raise BackendError(f"{path} is no qemu: {last_words(said.stdout + said.stderr)}", SETUP)
    return found[1]


def _ending(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return f"the runtime died of {name}: {last_words(done.stderr)}"
    return last_words(done.stderr)
