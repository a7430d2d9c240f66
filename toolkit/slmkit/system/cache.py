"""The build cache: codes and artifacts, addressed by a hash of their inputs.

A file that comes out of it is one that was put in: each entry holds the hashes of its files, and
an entry that is damaged is removed, with a notice, so that it is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import stat
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from slmkit.errors import SlmkitError
from slmkit.system.scratch import PREFIX, clear_leftovers, locked, owned_folder, scratch

CacheChoice = str | Path | bool  # a folder; True: the default one; False: none
LIMIT = 20 * 10**9  # bytes; the least recently used entries are removed first
MAKING = ".making-"  # folders of entries that are not whole yet
HASHES = ".hashes.json"  # in an entry: of each file its SHA-256, and the stamp that it had then
IN_USE, CHANGING = ".in-use", ".changing"  # locked: by whoever uses the cache; to remove entries
RECENT = 24 * 3600  # seconds after which an entry is nobody's, even if the cache is in use
logger = logging.getLogger(__name__)


def default_folder() -> Path:
    """$SLMKIT_CACHE, else ``slmkit`` in $XDG_CACHE_HOME or ~/.cache; an empty name is none."""
    if os.environ.get("SLMKIT_CACHE"):
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
        self._leave: Callable[[], Any] | None = None  # gives up the lock of those who use it
        self._told = set[str]()  # kinds of entries of which one was said to be damaged

    def find(self, kind: str, key: str) -> Path | None:
        """The folder of an entry, marked as used; None if there is none, or it was damaged."""
        path = self.folder / f"{kind}-{key}"
        if not path.is_dir():
            return None
        self._use()
        if not intact(path):
            self._remove_damaged(path)
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

    def copy(self, kind: str, key: str, place: Path) -> bool:
        """Copy an entry's files into the folder ``place``, and compare each copy with its hash.

        False if there is no entry, or it was damaged: then ``place`` is empty.
        """
        entry = self.find(kind, key)
        if entry is None:
            return False
        for name, facts in _hashes(entry).items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(entry / name, place / name)
            if file_hash(place / name) != facts[0]:
                self._remove_damaged(entry, sure=True)
                shutil.rmtree(place)
                place.mkdir()
                return False
        return True

    @contextlib.contextmanager
    def making(self, kind: str, key: str) -> Iterator[Path]:
        """A new folder, which becomes the entry on success and is removed on an error."""
        with self.folder_of_pieces() as making:
            entry = making / "entry"
            entry.mkdir()
            yield entry
            _write_hashes(entry)
            with contextlib.suppress(OSError):  # another process was first: its entry is equal
                entry.rename(self.folder / f"{kind}-{key}")

    @contextlib.contextmanager
    def folder_of_pieces(self) -> Iterator[Path]:
        """A folder beside the entries for what is going to be one; it is gone afterwards.

        Raises SlmkitError if the cache cannot be written.
        """
        self._use()
        with contextlib.ExitStack() as stack:
            try:
                clear_leftovers(self.folder, MAKING)
                making = stack.enter_context(owned_folder(self.folder, MAKING))
            except OSError as error:
                raise SlmkitError(
                    f"cannot write to the cache {self.folder}: {error.strerror}",
                    "choose another folder with --cache, or none with --no-cache",
                ) from None
            yield making

    def entries(self) -> list[Path]:
        """The folders of all entries, the least recently used first."""
        found = [path for path in self.folder.glob("*-*") if not path.name.startswith(".")]
        return sorted(found, key=lambda path: path.stat().st_mtime)

    def prune(self, limit: int = LIMIT) -> None:
        """Remove leftovers of killed builds and, beyond ``limit`` bytes, the oldest entries.

        While others use the cache, only entries that have been idle for a day are removed.
        """
        clear_leftovers(self.folder, MAKING)
        clear_leftovers(self.folder, PREFIX)
        if self._leave is not None:
            self._leave()
            self._leave = None
        with contextlib.suppress(OSError), open(self.folder / IN_USE, "ab") as lock:
            least_age = 0 if locked(lock) else RECENT
            entries = self.entries()
            total = sum(map(folder_size, entries))
            while total > limit and len(entries) > 1:
                oldest = entries.pop(0)
                if _age(oldest) >= least_age:
                    total -= folder_size(oldest)
                    shutil.rmtree(oldest, ignore_errors=True)

    def _use(self) -> None:
        """Say to other processes that entries are in use, until this object or process ends."""
        if self._leave is None:
            with contextlib.suppress(OSError):  # in a read-only cache nobody removes entries
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = os.open(self.folder / IN_USE, os.O_WRONLY | os.O_CREAT, 0o666)
                self._leave = weakref.finalize(self, os.close, lock)
                locked(lock, shared=True, wait=True)

    def _remove_damaged(self, path: Path, sure: bool = False) -> None:
        """Take away a damaged entry, unless another process has made it anew meanwhile."""
        kind = path.name.partition("-")[0]
        level = logging.DEBUG if kind in self._told else logging.WARNING  # not a line for hundreds
        self._told.add(kind)
        logger.log(level, "the cache's entry %s was damaged: it is made again", path)
        try:
            with open(self.folder / CHANGING, "ab") as lock, owned_folder(self.folder) as away:
                locked(lock, wait=True)
                if sure or not intact(path):
                    path.rename(away / path.name)
        except FileNotFoundError:
            return  # another process took it away
        except OSError as error:
            raise SlmkitError(
                f"the cache's entry {path} is damaged and cannot be removed: {error.strerror}",
                "choose another folder with --cache, or none with --no-cache",
            ) from None


def intact(entry: Path) -> bool:
    """Whether an entry's files are those that it was made of.

    A file whose size and times are as they were when it was hashed is not read again.
    """
    try:
        known = _hashes(entry)
        if set(known) != {path.relative_to(entry).as_posix() for path in _files(entry)}:
            return False
        again = False
        for name, (digest, *stamp) in known.items():
            if stamp != _stamp(entry / name):
                if file_hash(entry / name) != digest:
                    return False
                again = True
        if again:  # copied to another place: its files' times are others
            with contextlib.suppress(OSError):
                _write_hashes(entry, {name: facts[0] for name, facts in known.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        return False
    return True


@contextlib.contextmanager
def opened_cache(choice: CacheChoice) -> Iterator[Cache]:
    """The cache of a choice; without one, a folder that is gone afterwards."""
    folder = chosen_folder(choice)
    with work_folder(folder) as work:
        yield Cache(folder or work / "cache")


@contextlib.contextmanager
def work_folder(cache: Path | None) -> Iterator[Path]:
    """A folder for intermediate files: in the cache, or in the system's temporary folder if there
    is no cache or it cannot be written."""
    near = cache
    if cache is not None:
        with contextlib.suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
        near = cache if os.access(cache, os.W_OK) else None
    with scratch(near) as folder:
        yield folder


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder and its subfolders."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _files(entry: Path) -> list[Path]:
    """Everything in an entry but its hashes and plain folders: links and devices too."""
    found = (path for path in entry.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path for path in found if path != entry / HASHES)


def _stamp(path: Path) -> list[int]:
    """Changes when a file does: its size, and the times of its content and its inode."""
    facts = path.stat(follow_symlinks=False)
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(f"{path} is no plain file")
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def _hashes(entry: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((entry / HASHES).read_text(encoding="utf-8"))
    return values


def _write_hashes(entry: Path, known: dict[str, str] | None = None) -> None:
    """``known``: the hashes, if only the stamps are new."""
    names = [path.relative_to(entry).as_posix() for path in _files(entry)]
    found = {name: known[name] if known else file_hash(entry / name) for name in names}
    facts = {name: [digest, *_stamp(entry / name)] for name, digest in found.items()}
    written = entry / f"{HASHES}.new"
    written.write_text(json.dumps(facts), encoding="utf-8")
    written.replace(entry / HASHES)


def _age(path: Path) -> float:
    """Seconds since the last modification."""
    return time.time() - path.stat().st_mtime
