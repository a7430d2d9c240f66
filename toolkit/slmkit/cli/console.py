"""The terminal: tables on stdout, progress on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from slmkit.cli.overall import Overall, Stage
from slmkit.system.process_memory import tree_memory
from slmkit.system.progress import Progress, Silent

PLAIN_WIDTH = 160  # columns of a table that goes to a file or a pipe
PERIOD = 30.0  # seconds between two lines about the whole, where stderr is not a terminal
REFRESH = 1.0  # seconds, on a terminal


def printed(*things: Any) -> None:
    """Print to stdout; wide enough for a table when stdout is not a terminal."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    for thing in things:
        console.print(thing, highlight=False)


class Lines:
    """Where stderr is not a terminal: a line per stage, and one about the whole every while."""

    def __init__(self, overall: Overall) -> None:
        self.overall = overall
        self._stage: Stage | None = None

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Note what is to come."""
        self.overall.expect(seconds)

    def stage(self, label: str, total: int) -> None:
        """Print the name of the stage."""
        self._stage = self.overall.begin(label, total, self._stage)
        _line(label)

    def advance(self, done: int) -> None:
        """Note what was done, for the next line about the whole."""
        self.overall.advance(self._stage, done)

    @contextlib.contextmanager
    def branch(self) -> Iterator[Progress]:
        """Lines of another thread, about the same whole; this one's stage has ended."""
        self.overall.end(self._stage)
        own = Lines(self.overall)
        yield own
        self.overall.end(own._stage)

    def tell(self) -> None:
        """Print a line about the whole, if there is one."""
        if found := status(self.overall):
            _line(f"... {found}")


@dataclass
class _Screen:
    """The bars of all branches, and the one of the whole."""

    progress: RichProgress
    overall: Overall
    task: TaskID | None = None

    def refresh(self) -> None:
        """Show how far the whole is."""
        if not self.overall.total:
            return
        if self.task is None:
            self.task = self.progress.add_task("", total=1.0)
        share, text = self.overall.share, f"[bold]{status(self.overall)}"
        self.progress.update(self.task, completed=share, description=text)


class Bars:
    """On a terminal: a bar per stage, and one for the whole."""

    def __init__(self, screen: _Screen) -> None:
        self._screen = screen
        self._task: TaskID | None = None
        self._stage: Stage | None = None

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Note what is to come."""
        self._screen.overall.expect(seconds)
        self._screen.refresh()

    def stage(self, label: str, total: int) -> None:
        """Finish the last bar and begin a new one."""
        self.finish()
        self._stage = self._screen.overall.begin(label, total, self._stage)
        self._task = self._screen.progress.add_task(label, total=max(1, total))

    def advance(self, done: int) -> None:
        """Move the current bar."""
        self._screen.overall.advance(self._stage, done)
        if self._task is not None:
            self._screen.progress.advance(self._task, done)

    @contextlib.contextmanager
    def branch(self) -> Iterator[Progress]:
        """Bars of another thread, on the same screen; this one's stage has ended."""
        self.finish()
        self._screen.overall.end(self._stage)
        own = Bars(self._screen)
        yield own
        own.finish()
        self._screen.overall.end(own._stage)

    def finish(self) -> None:
        """Fill the current bar."""
        if self._task is not None:
            found = self._screen.progress
            whole = next(each.total for each in found.tasks if each.id == self._task)
            found.update(self._task, completed=whole)
            self._task = None


def status(overall: Overall) -> str:
    """Stage, percent, time left, memory: "stage 7 of 19, 43 %, about 3 min left, 1.2 GB"."""
    held = tree_memory(os.getpid())
    memory = [] if held is None else [f"{held / 1e9:.1f} GB"]
    return ", ".join([*overall.words(), *memory]) if overall.total else ""


@contextlib.contextmanager
def shown_progress(quiet: bool = False) -> Iterator[Progress]:
    """Bars on a terminal, lines elsewhere; ``quiet``: nothing."""
    console = Console(stderr=True)
    overall = Overall()
    if quiet:
        yield Silent()
    elif not console.is_terminal:
        lines = Lines(overall)
        with _regularly(lines.tell, PERIOD):
            yield lines
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with RichProgress(*columns, console=console) as progress:
            screen = _Screen(progress, overall)
            bars = Bars(screen)
            with _regularly(screen.refresh, REFRESH):
                yield bars
            bars.finish()
            screen.refresh()


@contextlib.contextmanager
def _regularly(work: Any, period: float) -> Iterator[None]:
    """Do something every ``period`` seconds, in a thread."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(period):
            work()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _line(text: str) -> None:
    sys.stderr.write(f"slmkit: {text}\n")
    sys.stderr.flush()
