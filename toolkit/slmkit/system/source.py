"""A hash of code, for results that hold as long as the code that found them is the same."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import util
from pathlib import Path


@cache
def source_digest(package: str) -> str:
    """SHA-256 over the names and contents of a package's Python files, in hex."""
    found = util.find_spec(package.partition(".")[0])
    places = found.submodule_search_locations if found is not None else None
    digest = hashlib.sha256()
    for folder in map(Path, places or ()):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
