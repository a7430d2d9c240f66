"""ssh:HOST: a machine with a Python of its own, such as a Raspberry Pi, a Jetson or a Mac.

HOST is whatever ``ssh HOST`` takes; it must log in without a question. The runtime's wheels are
installed there into a virtual environment, unless its Python has them in the right version.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from slmkit.devices.places import shell
from slmkit.devices.places.place import Payload, last_words
from slmkit.errors import BackendError, UsageError

FOLDER = ".cache/slmkit-devices"  # there, in the home folder
OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5")
LOST = 255  # ssh's own exit code, for a connection that fails
INSTALLING = 1800  # seconds
OLDEST = (3, 10)  # Python there, for the payload
OWN = (  # without a login, a Mac's PATH has its own Python alone, which is older
    "python3",
    "/opt/homebrew/bin/python3",
    "/usr/local/bin/python3",
)
PROBE = (  # prints name==version of each package that is there
    "from importlib.metadata import version, PackageNotFoundError\n"
    "for name in {names!r}:\n"
    "    try: print(name + '==' + version(name))\n"
    "    except PackageNotFoundError: pass\n"
)


class Ssh:
    """One host. ``client``: the command of ssh, with options."""

    def __init__(self, host: str, client: Sequence[str] = ("ssh",)) -> None:
        if not host or host.startswith("-"):
            raise UsageError("ssh needs a host", "such as --on ssh:pi@raspberrypi.local")
        self.host, self.client = host, (*client, *OPTIONS)
        self.name, self.emulated = f"ssh:{host}", ""
        self.python = "python3"

    @cached_property
    def system(self) -> str:
        """As ``Place.system``."""
        return self.run("uname -s").strip()

    def prepare(self, payload: Payload) -> None:
        """Send the files, and find or make a Python with the payload's wheels."""
        self.python = self._python(payload.requirements)
        shell.bring(self, payload.files, self._folder(payload))

    def execute(self, payload: Payload, job: Mapping[str, Any], out: Path) -> None:
        """Run a job there."""
        shell.execute(self, self.python, payload, self._folder(payload), job, out)

    def run(self, command: str, timeout: float = 60) -> str:
        """As ``Shell.run``."""
        return self._ssh(command, timeout=timeout).decode(errors="replace")

    def push(self, path: Path, to: str) -> None:
        """As ``Shell.push``: continued where an earlier try ended."""
        size, quoted = path.stat().st_size, shlex.quote(to)
        said = self.run(f"if [ -f {quoted} ]; then wc -c < {quoted}; else echo 0; fi")
        begin = int(said.strip() or 0)
        if begin > size:
            self.run(f"rm -f {quoted}")
            begin = 0
        with path.open("rb") as file:
            file.seek(begin)
            self._ssh(f"cat >> {quoted}", file, timeout=shell.SECONDS, size=size)

    def pull(self, path: str, to: Path) -> None:
        """As ``Shell.pull``."""
        to.write_bytes(self._ssh(f"cat {shlex.quote(path)}", timeout=600))

    def _folder(self, payload: Payload) -> str:
        return f"{FOLDER}/{shell.payload_key(payload)}"

    def _python(self, requirements: Sequence[str]) -> str:
        """The command of a Python that has the wheels."""
        own = self._own()
        if not self._missing(own, requirements):
            return own
        key = hashlib.sha256(repr(sorted(requirements)).encode()).hexdigest()[:12]
        folder = f"{FOLDER}/env-{key}"
        python = f"{folder}/bin/python"
        if self.run(f"test -x {python} && echo there || true") and not self._missing(
            python, requirements
        ):
            return python
        words = " ".join(map(shlex.quote, requirements))
        try:
            self.run(f"mkdir -p {FOLDER} && {own} -m venv --clear {folder}", timeout=INSTALLING)
            self.run(f"{python} -m pip install --quiet {words}", timeout=INSTALLING)
        except BackendError as error:
            raise BackendError(
                f"{self.name} cannot have {', '.join(requirements)}: {error.message}",
                "install them there for python3, or python3-venv and a network",
            ) from None
        return python

    def _own(self) -> str:
        """The first Python there that is new enough. Raises BackendError."""
        code = shlex.quote(f"import sys; sys.exit(sys.version_info < {OLDEST})")
        found = self.run(
            f"for p in {' '.join(OWN)}; do if $p -c {code} 2>/dev/null; then echo $p; break; fi; "
            "done"
        ).strip()
        if not found:
            raise BackendError(
                f"{self.name} has no Python {OLDEST[0]}.{OLDEST[1]} or newer: looked for "
                f"{', '.join(OWN)}",
                "install one there, first on the PATH of a shell without a login",
            )
        return found

    def _missing(self, python: str, requirements: Sequence[str]) -> list[str]:
        names = [each.partition("==")[0] for each in requirements]
        said = self.run(f"{python} -c {shlex.quote(PROBE.format(names=names))} || true")
        there = dict(line.split("==", 1) for line in said.split() if "==" in line)
        return [
            each
            for each, name in zip(requirements, names, strict=True)
            if each not in (name, f"{name}=={there.get(name)}") or name not in there
        ]

    def _ssh(self, command: str, stdin: Any = None, timeout: float = 60, size: int = 0) -> bytes:
        """Run a command there; its stdout. Raises BackendError."""
        try:
            done = subprocess.run(
                [*self.client, self.host, command],
                stdin=stdin or subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except FileNotFoundError:
            raise BackendError("there is no ssh here", "install OpenSSH's client") from None
        except subprocess.TimeoutExpired:
            raise BackendError(f"{self.name} did not answer in {timeout:.0f} s") from None
        said = done.stderr.decode(errors="replace")
        if done.returncode == LOST:
            raise BackendError(
                f"{self.name} cannot be reached, or was lost: {last_words(said)}",
                f"ssh {self.host} must log in without a question",
            )
        if "No space left on device" in said:
            raise shell.full_disk(self.name, size)
        if done.returncode:
            raise BackendError(f"{self.name}: {last_words(said)}")
        return done.stdout
