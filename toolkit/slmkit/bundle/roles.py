"""The role of each file of a bundle, where it lies, and the files that an app needs."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from slmkit.backend.artifact import PROOF, Artifact
from slmkit.bundle.manifest import BundledArtifact, File, Manifest, Role
from slmkit.errors import UsageError

EVERY = ""  # the device of files that every one needs
USE = "USE.md"  # how an app uses each artifact
REPORT, SUMMARY = "report.html", "report.md"  # of the build


def with_roles(
    files: Iterable[File], artifacts: Iterable[BundledArtifact], tokenizer: str
) -> tuple[File, ...]:
    """The files with their roles. ``tokenizer``: the folder of the bundle's tokenizer."""
    known = tuple(artifacts)
    return tuple(
        file.model_copy(update={"role": _role(file.path, known, tokenizer)}) for file in files
    )


def set_apart(bundle: Path, artifact: Artifact) -> None:
    """Move the files of a written artifact that no app loads to ``proof/``, under the same names;
    of a backend that does not say what it ships, none."""
    folder, apart = bundle / artifact.name, bundle / PROOF / artifact.name
    for path in sorted(folder.rglob("*")) if artifact.ships else ():
        name = path.relative_to(folder)
        if path.is_file() and _role_in(artifact, name.as_posix()) != "ships":
            (apart / name).parent.mkdir(parents=True, exist_ok=True)
            path.rename(apart / name)
            with contextlib.suppress(OSError):  # it holds more
                path.parent.rmdir()


def proof_file(bundle: Path, name: str) -> Path:
    """A file of the proof of the whole bundle; in bundles of older versions it lies in
    ``parity/``."""
    older = bundle / "parity" / Path(name).name
    return older if older.exists() else bundle / name


def shipped(
    manifest: Manifest, artifact: BundledArtifact, devices: Collection[str] = ()
) -> tuple[File, ...]:
    """The files that an app loads of an artifact, for some of its devices; for all, if none is
    named.

    Raises UsageError for another device, and for a bundle that does not say.
    """
    if not artifact.ships:
        raise UsageError(
            f"the bundle does not say which files of {artifact.name} an app loads",
            "it is of an older version of slmkit: build it again",
        )
    of_devices = sorted(set(artifact.ships) - {EVERY})
    for device in devices:
        if device not in of_devices:
            names = ", ".join(of_devices) or "none: its files are the same for every device"
            raise UsageError(f"{artifact.name} has no files for {device!r}", f"it has: {names}")
    chosen = [EVERY, *(devices or of_devices)]
    patterns = [each for device in chosen for each in artifact.ships.get(device, ())]
    own = [f"{artifact.folder}/{each}" for each in patterns]
    own += [f"{manifest.tokenizer}/*"] if artifact.app_tokenizer else []
    return tuple(file for file in manifest.files if _matches(file.path, own))


def most_that_ships(manifest: Manifest, artifact: BundledArtifact) -> tuple[File, ...]:
    """The files that one device gets, of the device that gets the most; of a backend that does
    not say which files an app loads, all in its folder."""
    if not artifact.ships:
        inside = f"{artifact.folder}/"
        return tuple(file for file in manifest.files if file.path.startswith(inside))
    devices = [[device] for device in artifact.ships if device] or [[]]
    found = [shipped(manifest, artifact, each) for each in devices]
    return max(found, key=lambda files: sum(file.size for file in files))


def _role(path: str, artifacts: Iterable[BundledArtifact], tokenizer: str) -> Role:
    if path in (USE, REPORT, SUMMARY):
        return "docs"
    if path.startswith(f"{tokenizer}/"):
        return "ships"
    for artifact in artifacts:
        if path.startswith(f"{artifact.folder}/"):
            return _role_in(artifact, path.removeprefix(f"{artifact.folder}/"))
        if path.startswith(f"{PROOF}/{artifact.folder}/"):
            return _role_in(artifact, path.removeprefix(f"{PROOF}/{artifact.folder}/"))
    return "proof"


def _role_in(artifact: Artifact, name: str) -> Role:
    """The role of a file by its name in the folder that the backend wrote."""
    if _matches(name, [each for patterns in artifact.ships.values() for each in patterns]):
        return "ships"
    return "source" if _matches(name, artifact.sources) else "proof"


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
