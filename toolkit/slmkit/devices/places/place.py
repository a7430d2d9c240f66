"""A place where artifacts run: all that a way of reaching one must offer, and its payload."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from slmkit.backend.artifact import PROOF
from slmkit.backend.declaration import Elsewhere
from slmkit.backend.registry import installed_versions
from slmkit.bundle.manifest import BundledArtifact
from slmkit.errors import BackendError

RUN, ENGINE, MODEL = "run.py", "engine.py", "model"  # in a payload; MODEL is a folder
RESULT, OUTPUTS = "result.json", "outputs.npz"  # what comes back


@dataclass(frozen=True)
class Payload:
    """The files that a device needs to run an artifact, by the names that they have there."""

    files: Mapping[str, Path]
    requirements: tuple[str, ...]  # of pip: "onnxruntime==1.32.0"

    def stage(self, folder: Path) -> None:
        """Put the files into a folder of this computer: links where that is possible."""
        for name, path in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, folder / name)
            except OSError:  # another file system
                shutil.copyfile(path, folder / name)


class Place(Protocol):
    """Somewhere an artifact runs."""

    name: str  # as the user names it: "qemu-arm64:a76"
    emulated: str  # which emulator computes there; empty: silicon

    @property
    def system(self) -> str:
        """The system there, as ``uname -s`` names it. Raises BackendError."""
        ...

    def prepare(self, payload: Payload) -> None:
        """Bring the payload there, as far as it is not there yet. Raises BackendError."""
        ...

    def execute(self, payload: Payload, job: Mapping[str, Any], out: Path) -> None:
        """Run a job on a payload that is there; RESULT and OUTPUTS come into the folder ``out``.
        Raises BackendError with the device's own last words."""
        ...


def payload_of(folder: Path, artifact: BundledArtifact, elsewhere: Elsewhere) -> Payload:
    """The payload of an artifact of the bundle in ``folder``."""
    package, _, script = elsewhere.engine.partition(":")
    own = {
        RUN: Path(str(files("slmkit.devices.payload").joinpath("run.py"))),
        ENGINE: Path(str(files(package).joinpath(script))),
    }
    for place in (folder / artifact.folder, folder / PROOF / artifact.folder):
        for path in sorted(place.rglob("*")):
            name = path.relative_to(place).as_posix()
            if path.is_file() and any(fnmatchcase(name, each) for each in elsewhere.files):
                own[f"{MODEL}/{name}"] = path
    return Payload(own, requirements_of(elsewhere, artifact.libraries))


def requirements_of(
    elsewhere: Elsewhere, libraries: Mapping[str, str | None] | None = None
) -> tuple[str, ...]:
    """Requirements for a device's pip: the runtime's version is this computer's, or else the one
    that wrote the artifact."""
    runtime, *others = elsewhere.packages
    version = installed_versions([runtime])[runtime] or (libraries or {}).get(runtime)
    return (f"{runtime}=={version}" if version else runtime, *others)


def result_in(out: Path, place: Place) -> dict[str, Any]:
    """The result that a job brought back. Raises BackendError if it is not there, or not whole."""
    try:
        found: dict[str, Any] = json.loads((out / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BackendError(f"{place.name} sent no result back", "run it again") from None
    return found


def last_words(text: str) -> str:
    """The last line that says something, without colors."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
