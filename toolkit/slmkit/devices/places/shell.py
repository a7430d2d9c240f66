"""A machine with a shell: files are sent by their hash, commands run, files come back."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from slmkit.devices.places.place import MODEL, OUTPUTS, RESULT, RUN, Payload
from slmkit.errors import BackendError
from slmkit.system.cache import file_hash
from slmkit.system.scratch import scratch

JOB, OUT, PART = "job.json", "out", ".part"
SECONDS = 3600  # that a job may take
MEGABYTE = 10**6


class Shell(Protocol):
    """A way to a machine."""

    name: str

    def run(self, command: str, timeout: float = 60) -> str:
        """Run a command of sh there; its stdout. Raises BackendError with its last words."""
        ...

    def push(self, path: Path, to: str) -> None:
        """Send a file; what an earlier try has left may be continued. Raises BackendError."""
        ...

    def pull(self, path: str, to: Path) -> None:
        """Fetch a file. Raises BackendError."""
        ...


def payload_key(payload: Payload) -> str:
    """The name of a payload's folder there: by the names of its files, which keep their place
    when their content changes."""
    names = json.dumps([sorted(payload.files), *payload.requirements])
    return hashlib.sha256(names.encode()).hexdigest()[:12]


def bring(shell: Shell, files: Mapping[str, Path], folder: str) -> list[str]:
    """Send those files of which ``folder`` there has no equal one; the names of the sent ones.

    A file arrives under another name, is hashed there, and takes its place in one step. Raises
    BackendError, of a full disk too.
    """
    wanted = {f"{folder}/{name}": path for name, path in files.items()}
    hashes = {name: file_hash(path) for name, path in wanted.items()}
    there = hashes_there(shell, list(wanted))
    sent = [name for name in wanted if there.get(name) != hashes[name]]
    if not sent:
        return []
    places = sorted({str(PurePosixPath(name).parent) for name in sent})
    shell.run(f"mkdir -p {' '.join(map(shlex.quote, places))}")
    for name in sent:
        _send(shell, wanted[name], name, hashes[name])
    return [name.removeprefix(f"{folder}/") for name in sent]


def hashes_there(shell: Shell, names: list[str]) -> dict[str, str]:
    """SHA-256 of those files that are there, by name."""
    quoted = " ".join(map(shlex.quote, names))
    said = shell.run(
        f'for f in {quoted}; do if [ -f "$f" ]; then sha256sum "$f" 2>/dev/null || '
        'shasum -a 256 "$f"; fi; done',
        timeout=600,
    )
    pairs = (line.split(maxsplit=1) for line in said.splitlines() if line.strip())
    return {name.lstrip("*").strip(): digest for digest, name in pairs}


def execute(
    shell: Shell, python: str, payload: Payload, folder: str, job: Mapping[str, Any], out: Path
) -> None:
    """Run a job on a payload that lies in ``folder`` there, with the command ``python``."""
    there = f"{folder}/{OUT}"
    with scratch() as near:
        sent = near / JOB
        sent.write_text(json.dumps({**job, "folder": f"{folder}/{MODEL}"}), encoding="utf-8")
        bring(shell, {JOB: sent}, folder)
    words = " ".join(shlex.quote(f"{folder}/{name}") for name in (RUN, JOB, OUT))
    shell.run(f"rm -rf {shlex.quote(there)} && {python} {words}", timeout=SECONDS)
    for name in (RESULT, OUTPUTS):
        shell.pull(f"{there}/{name}", out / name)


def full_disk(name: str, size: int) -> BackendError:
    """The error for a device that has no room; ``size``: of the file that it was sent, or 0."""
    what = f" for a file of {max(1, size // MEGABYTE)} MB" if size else ""
    return BackendError(
        f"{name} has no space left{what}",
        "free some there, and run it again: what has arrived is kept",
    )


def _send(shell: Shell, path: Path, name: str, digest: str) -> None:
    part = f"{name}{PART}"
    for attempt in range(2):
        shell.push(path, part)
        if hashes_there(shell, [part]).get(part) == digest:
            shell.run(f"mv -f {shlex.quote(part)} {shlex.quote(name)}")
            return
        shell.run(f"rm -f {shlex.quote(part)}")  # of other bytes, or damaged on its way
        if attempt:
            raise BackendError(f"{path.name} arrives damaged on {shell.name}", "is its disk right?")
