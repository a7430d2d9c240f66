"""The bundle's folder: written beside its place, and moved there whole."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slmkit.bundle.manifest import MANIFEST
from slmkit.errors import BundleError
from slmkit.system.scratch import clear_leftovers, owned_folder, scratch

AT_FDCWD = -100  # Linux fcntl.h
RENAME_EXCHANGE = 2  # Linux fs.h
BUILDING = ".building-"
FAILED = ".failed"  # ends the name of a bundle that failed its proof
NEW, OLDER = "new", "older"  # in the folder of a build: the bundle, and the one it replaces


@dataclass(frozen=True)
class Kind:
    """A kind of folder that slmkit writes: its name, the file that tells it, the option for it."""

    name: str
    article: str
    mark: str
    option: str


BUNDLE = Kind("bundle", "a", MANIFEST, "--out")


def check_place(place: Path, force: bool, kind: Kind = BUNDLE) -> None:
    """Refuse to write over one of its kind without ``force``, and over anything else at all."""
    if not place.exists():
        return
    if not (place / kind.mark).is_file():
        wanted = f"{kind.article} {kind.name}"
        raise BundleError(f"{place} exists and is not {wanted}", f"choose another {kind.option}")
    if not force:
        raise BundleError(f"the {kind.name} {place} exists", "use --force to replace it")


@contextlib.contextmanager
def beside(place: Path) -> Iterator[Path]:
    """A folder for intermediate files beside ``place``: large ones have room where the bundle has.

    Raises BundleError if nothing can be written there.
    """
    with contextlib.ExitStack() as stack:
        with _writing(place.parent, BUNDLE):
            folder = stack.enter_context(scratch(place.parent))
        yield folder


@contextlib.contextmanager
def written(place: Path, force: bool, kind: Kind = BUNDLE) -> Iterator[Path]:
    """A folder to fill; at the end it takes ``place`` in one step, on an error it vanishes.

    What a killed build left behind is removed first.
    """
    check_place(place, force, kind)
    prefix = f".{place.name}{BUILDING}"
    with contextlib.ExitStack() as stack:
        with _writing(place.parent, kind):
            place.parent.mkdir(parents=True, exist_ok=True)
            clear_leftovers(place.parent, prefix, lambda left: _put_back(left / OLDER, place))
            building = stack.enter_context(owned_folder(place.parent, prefix))
            folder = building / NEW
            folder.mkdir()
        yield folder
        check_place(place, force, kind)  # somebody else may have been faster
        _put_in_place(folder, place)


def keep_failed(folder: Path, place: Path) -> Path:
    """Move a bundle that failed its proof beside ``place``, under a name that says so; an older
    failed one goes. Raises BundleError if that name is taken by anything else."""
    kept = place.with_name(place.name + FAILED)
    check_place(kept, force=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(kept)
    folder.rename(kept)
    return kept


@contextlib.contextmanager
def _writing(folder: Path, kind: Kind) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BundleError(
            f"cannot write to {folder}: {error.strerror}", f"choose another {kind.option}"
        ) from None


def _put_in_place(folder: Path, place: Path) -> None:
    """Rename; an older bundle is exchanged in the same system call where there is one."""
    if not place.exists():
        folder.rename(place)
    elif not _exchange(folder, place):
        place.rename(folder.with_name(OLDER))
        folder.rename(place)


def _put_back(older: Path, place: Path) -> None:
    """An older bundle that a killed build had moved aside."""
    if older.exists() and not place.exists():
        older.rename(place)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders atomically (Linux renameat2); False where that is not possible."""
    if not sys.platform.startswith("linux"):
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = (os.fsencode(first), os.fsencode(second))
    return call is not None and (call(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0)
