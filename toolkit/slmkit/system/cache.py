"""The build cache: codes and artifacts, addressed by a hash of their inputs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slmkit.errors import SlmkitError

CacheChoice = str | Path | bool  # a folder; True: the default one; False: none
LIMIT = 20 * 10**9  # bytes; the least recently used entries are removed first


def default_folder() -> Path:
    """$SLMKIT_CACHE, else ``slmkit`` in $XDG_CACHE_HOME or ~/.cache."""
    if "SLMKIT_CACHE" in os.environ:
        return Path(os.environ["SLMKIT_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slmkit"


def chosen_folder(choice: CacheChoice) -> Path | None:
    """The folder of a choice; None for no cache."""
    if choice is True:
        return default_folder()
    return None if choice is False else Path(choice)


def key_of(facts: Any) -> str:
    """A content address: SHA-256 of ``facts`` as JSON, the first 32 hex digits."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Cache:
    """A folder of entries; an entry appears atomically, when it is complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, kind: str, key: str) -> Path | None:
        """The folder of an entry, marked as used; None if there is none."""
        path = self.folder / f"{kind}-{key}"
        if not path.is_dir():
            return None
        with contextlib.suppress(OSError):  # a read-only cache can be read
            os.utime(path)
        return path

    def entry(self, kind: str, key: str) -> Path:
        """The folder of an entry that has just been made. Raises SlmkitError if it is gone."""
        path = self.find(kind, key)
        if path is None:
            raise SlmkitError(f"the cache {self.folder} lost an entry", "is its disk full?")
        return path

    @contextlib.contextmanager
    def making(self, kind: str, key: str) -> Iterator[Path]:
        """A new folder, which becomes the entry on success and is removed on an error."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=self.folder) as making:
            entry = Path(making) / "entry"
            entry.mkdir()
            yield entry
            with contextlib.suppress(OSError):  # another process was first: its entry is equal
                entry.rename(self.folder / f"{kind}-{key}")

    def prune(self, limit: int = LIMIT) -> None:
        """Remove leftovers of killed builds and, beyond ``limit`` bytes, the oldest entries."""
        for leftover in self.folder.glob(".making-*"):
            if _age(leftover) > 24 * 3600:
                shutil.rmtree(leftover, ignore_errors=True)
        entries = [path for path in self.folder.glob("*-*") if not path.name.startswith(".")]
        entries.sort(key=lambda path: path.stat().st_mtime)
        total = sum(map(folder_size, entries))
        while total > limit and len(entries) > 1:
            oldest = entries.pop(0)
            total -= folder_size(oldest)
            shutil.rmtree(oldest, ignore_errors=True)


@contextlib.contextmanager
def opened_cache(choice: CacheChoice) -> Iterator[Cache]:
    """The cache of a choice; without one, a folder that is gone afterwards."""
    folder = chosen_folder(choice)
    with tempfile.TemporaryDirectory(prefix="slmkit-") as scratch:
        yield Cache(folder or Path(scratch) / "cache")


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder and its subfolders."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _age(path: Path) -> float:
    """Seconds since the last modification."""
    return time.time() - path.stat().st_mtime
