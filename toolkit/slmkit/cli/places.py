"""Places for single files that commands write."""

from __future__ import annotations

from pathlib import Path

from slmkit.errors import UsageError


def check_file(place: Path, force: bool) -> None:
    """Refuse a place for a file before anything is done: a folder, a folder that does not exist,
    an older file without ``force``. Raises UsageError."""
    if place.is_dir() or not place.absolute().parent.is_dir():
        raise UsageError(f"{place} is no place for a file", "give a file in a folder that exists")
    if place.exists() and not force:
        raise UsageError(f"{place} exists", "use --force to replace it")
