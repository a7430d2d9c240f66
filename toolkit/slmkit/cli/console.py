"""The terminal: tables on stdout, progress on stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

PLAIN_WIDTH = 160  # columns of a table that goes to a file or a pipe


def printed(*things: Any) -> None:
    """Print to stdout; wide enough for a table when stdout is not a terminal."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    for thing in things:
        console.print(thing, highlight=False)


class Bars:
    """One bar per stage."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task: TaskID | None = None

    def stage(self, label: str, total: int) -> None:
        """Finish the last bar and begin a new one."""
        self._finish()
        self.task = self.progress.add_task(label, total=max(1, total))

    def advance(self, done: int) -> None:
        """Move the current bar."""
        if self.task is not None:
            self.progress.advance(self.task, done)

    def _finish(self) -> None:
        if self.task is not None:
            task = self.progress.tasks[self.task]
            self.progress.update(self.task, completed=task.total)


class Lines:
    """Where stderr is not a terminal: a line per stage."""

    def stage(self, label: str, total: int) -> None:
        """Print the name of the stage."""
        sys.stderr.write(f"slmkit: {label}\n")

    def advance(self, done: int) -> None:
        """Nothing."""


@contextlib.contextmanager
def shown_progress() -> Iterator[Bars | Lines]:
    """Bars on a terminal, lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bars = Bars(progress)
        yield bars
        bars._finish()
