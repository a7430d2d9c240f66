"""How slmkit's own extras are installed: from the clone that runs, or by the package's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

NAME = "slmkit"
PROJECT = "pyproject.toml"  # of a clone, two folders above the package


def own_requirement(extras: Sequence[str]) -> str:
    """The words of ``pip install`` that bring extras of slmkit, for a shell.

    ``slmkit[a,b]`` serves an installed package, from wherever it came: pip keeps what is there and
    adds what the extras name. In a clone it is the clone's folder, so that it stays the code that
    runs.
    """
    named, clone = f"[{','.join(extras)}]", clone_folder()
    if clone is None:
        return f'"{NAME}{named}"'
    return f'-e "{"." if clone == Path.cwd() else clone}{named}"'


def clone_folder() -> Path | None:
    """The clone that this code runs from; None for an installed package."""
    folder = Path(__file__).resolve().parents[3]
    project = folder / PROJECT
    if project.is_file() and f'name = "{NAME}"' in project.read_text(encoding="utf-8"):
        return folder
    return None
