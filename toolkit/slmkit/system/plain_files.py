"""Read files that strangers wrote: plain files of a bounded size, never a pipe or a device."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any


def check_plain(path: Path, limit: int | None = None) -> int:
    """The size of a file. Raises OSError if it is no plain file, or larger than ``limit`` bytes."""
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(f"{path.name} is not a plain file")
    if limit is not None and facts.st_size > limit:
        raise OSError(f"{path.name} has {facts.st_size} bytes; at most {limit} are read")
    return facts.st_size


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of a plain file. Raises OSError."""
    check_plain(path, limit)
    with open(path, "rb") as file:
        return file.read(limit + 1)


def read_text(path: Path, limit: int) -> str:
    """The text of a plain file in UTF-8. Raises OSError, UnicodeDecodeError."""
    return read_bytes(path, limit).decode("utf-8")


def parse_json(text: str) -> Any:
    """The values of a JSON text. Raises ValueError, for a key that occurs twice too: of such keys
    some programs take the first, others the last."""
    return json.loads(text, object_pairs_hook=_unique)


def leaves(folder: Path, path: Path) -> bool:
    """Whether links lead from ``path`` out of ``folder``.

    Those of a Hugging Face cache do not: its folders ``snapshots`` link to ``blobs`` beside them.
    """
    home, target = folder.resolve(), path.resolve()
    if target.is_relative_to(home):
        return False
    stores = [each.parent / "blobs" for each in (home, *home.parents) if each.name == "snapshots"]
    return not any(target.is_relative_to(store) for store in stores)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return found
