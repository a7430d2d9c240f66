"""The role of each file of a bundle, and the files that an app needs of an artifact."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from slmkit.bundle.manifest import BundledArtifact, File, Manifest, Role
from slmkit.errors import UsageError

EVERY = ""  # the device of files that every one needs


def with_roles(
    files: Iterable[File], artifacts: Iterable[BundledArtifact], tokenizer: str
) -> tuple[File, ...]:
    """The files with their roles. ``tokenizer``: the folder of the bundle's tokenizer."""
    known = tuple(artifacts)
    return tuple(
        file.model_copy(update={"role": _role(file.path, known, tokenizer)}) for file in files
    )


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


def _role(path: str, artifacts: Iterable[BundledArtifact], tokenizer: str) -> Role:
    if path.startswith(f"{tokenizer}/"):
        return "ships"
    for artifact in artifacts:
        shipped = [each for patterns in artifact.ships.values() for each in patterns]
        if _matches(path, [f"{artifact.folder}/{each}" for each in shipped]):
            return "ships"
        if _matches(path, [f"{artifact.folder}/{each}" for each in artifact.sources]):
            return "source"
    return "proof"


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
