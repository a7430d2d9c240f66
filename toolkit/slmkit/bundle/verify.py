"""A bundle's files against its manifest: nothing changed, nothing missing, nothing more."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from slmkit.backend.artifact import PROOF
from slmkit.bundle.manifest import MANIFEST, BundledArtifact, File, Manifest, read_manifest
from slmkit.errors import BundleError, SlmkitError
from slmkit.system.cache import Cache, default_folder, file_hash, key_of

SIGNATURE = "model.sig"  # beside the manifest, in a bundle that was signed
OUTSIDE = {MANIFEST, SIGNATURE}  # files that the manifest does not list
VERIFIED = "verified"  # entries of the cache: files that were what their manifest says


def list_files(folder: Path) -> tuple[File, ...]:
    """Every file of a bundle but the manifest and its signature, with size and SHA-256, by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    outside = {folder / name for name in OUTSIDE}
    return tuple(_file(path, folder) for path in paths if path not in outside)


def verify(folder: Path) -> int:
    """Check every file of a bundle against its manifest; how many there are.

    Raises BundleError that names each missing, changed or unknown file, link or folder.
    """
    manifest = read_manifest(folder)
    _check(folder, manifest.files, _entries(folder) - OUTSIDE)
    return len(manifest.files)


def verify_loaded(
    folder: Path, manifest: Manifest, artifact: BundledArtifact, cache: Cache | None = None
) -> None:
    """Check the files that are read to run an artifact: its own, and the tokenizer's.

    They are hashed once: the cache (the default one, if none is given) keeps that they were right,
    until their sizes or times change. Raises BundleError as ``verify``.
    """
    parts = (artifact.folder, f"{PROOF}/{artifact.folder}", manifest.tokenizer)
    files = [file for file in manifest.files if file.path.startswith(tuple(f"{p}/" for p in parts))]
    found = {name for part in parts for name in _entries(folder / part, folder)}
    with contextlib.suppress(OSError):  # a file is missing
        stamps = [_stamp(folder / name) for name in sorted(found)]
        key = key_of([str(folder.resolve()), [file.model_dump() for file in files], stamps])
        kept = cache or Cache(default_folder())
        if kept.find(VERIFIED, key) is None:
            _check(folder, files, found)
            with contextlib.suppress(OSError, SlmkitError), kept.making(VERIFIED, key):
                pass  # that it is there says all
        return
    _check(folder, files, found)


def check_files(folder: Path, files: Sequence[File]) -> None:
    """Compare some files of a bundle with its manifest. Raises BundleError as ``verify``."""
    _check(folder, files, {file.path for file in files})


def _check(folder: Path, files: Sequence[File], found: set[str]) -> None:
    """Raise BundleError for each difference of what lies there, ``found``, from ``files``."""
    wrong = {file.path: said for file in files if (said := _difference(folder, file, found))}
    known = {file.path for file in files}
    wrong |= dict.fromkeys(sorted(found - known), "is not in the manifest")
    if wrong:
        told = "; ".join(f"{path} {said}" for path, said in wrong.items())
        error = BundleError(f"{folder} is damaged: {told}", "build or copy it again")
        error.details = {"wrong": [{"path": path, "why": said} for path, said in wrong.items()]}
        raise error


def _difference(folder: Path, file: File, found: set[str]) -> str:
    """The way in which a file differs from the manifest; empty if it does not."""
    path = folder / file.path
    if file.path not in found or path.is_symlink() or not path.is_file():
        return "is missing"
    if path.stat().st_size != file.size:
        return f"has {path.stat().st_size} bytes instead of {file.size}"
    return "" if file_hash(path) == file.sha256 else "was changed"


def _entries(folder: Path, root: Path | None = None) -> set[str]:
    """Names, below ``root``, of all that lies in a folder: files, links, empty folders. Links are
    not followed."""
    root, found = root or folder, set[str]()
    if folder.is_symlink() and folder != root:
        return {folder.relative_to(root).as_posix()}
    for place, folders, files in os.walk(folder):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        found |= {(here / name).relative_to(root).as_posix() for name in (*files, *links)}
        if not files and not folders and here != root:
            found.add(here.relative_to(root).as_posix())
    return found


def _stamp(path: Path) -> list[int]:
    facts = path.stat(follow_symlinks=False)
    return [facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def _file(path: Path, folder: Path) -> File:
    name = path.relative_to(folder).as_posix()
    return File(path=name, size=path.stat().st_size, sha256=file_hash(path))
