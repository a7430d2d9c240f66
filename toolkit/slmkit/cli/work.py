"""Options of long work: how much of this computer it may take, and what is shown of it."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from slmkit.cli.options import FOLDER
from slmkit.errors import SlmkitError, UsageError
from slmkit.system.progress import Progress, Through

if TYPE_CHECKING:
    from slmkit.system.jobs import Limits


@dataclass(frozen=True)
class Work:
    """The options of ``work_options``."""

    jobs: int | None = None
    memory: float | None = None  # GB
    verbose: bool = False
    quiet: bool = False
    log: Path | None = None

    @property
    def limits(self) -> Limits:
        """How many jobs run at once, and in how much memory. Raises UsageError."""
        from slmkit.system.jobs import Limits, cores

        if self.memory is not None and not 0 < self.memory < math.inf:  # not for NaN either
            raise UsageError(f"--memory {self.memory:g} is no amount of memory", "give GB, as in 8")
        memory = None if self.memory is None else int(self.memory * 10**9)
        return Limits(self.jobs or cores(), memory)

    @contextlib.contextmanager
    def shown(self) -> Iterator[Progress]:
        """The progress as the options want it shown, and what is printed meanwhile."""
        from slmkit.cli.console import shown_progress
        from slmkit.system.workers.output import listening

        if self.verbose and self.quiet:
            raise UsageError("-v and -q exclude each other", "leave one of them out")
        with contextlib.ExitStack() as stack:
            progress = stack.enter_context(shown_progress(self.quiet))
            if self.verbose:
                stack.enter_context(listening(_to_stderr))
            if self.log is not None:
                log = stack.enter_context(_opened(self.log))
                stack.enter_context(listening(log.output))
                progress = _Logged(progress, log)
            yield progress


def work_options(function: Callable[..., None]) -> Callable[..., None]:
    """--jobs, --memory, -v, -q, --log; the function gets ``work``."""

    @functools.wraps(function)
    def gathered(
        jobs: int | None,
        memory: float | None,
        verbose: bool,
        quiet: bool,
        log: Path | None,
        **more: Any,
    ) -> None:
        function(**more, work=Work(jobs, memory, verbose, quiet, log))

    wrapped: Callable[..., None] = gathered
    for each in (
        click.option("--log", type=FOLDER, help="A file for everything that is printed meanwhile."),
        click.option("--quiet", "-q", is_flag=True, help="Print only the result."),
        click.option("--verbose", "-v", is_flag=True, help="Print what compilers print, too."),
        click.option(
            "--memory",
            type=float,
            help="GB of memory for the command and its jobs [default: 3/4 of the free].",
        ),
        click.option(
            "--jobs",
            type=click.IntRange(min=1),
            help="Jobs that run side by side [default: the number of cores].",
        ),
    ):
        wrapped = each(wrapped)
    return wrapped


class _Log:
    """A file of lines, each with the time; several threads write it."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._lock = file, threading.Lock()

    def line(self, text: str) -> None:
        """Write a line, or several."""
        now = time.strftime("%H:%M:%S")
        with self._lock:
            for each in text.splitlines() or [""]:
                self._file.write(f"{now} {each}\n")
            self._file.flush()

    def output(self, about: str, printed: bytes) -> None:
        """Write what a worker printed."""
        self.line(printed.decode(errors="replace"))


class _Logged(Through):
    """A Progress whose stages go into a log too."""

    def __init__(self, inner: Progress, log: _Log) -> None:
        super().__init__(inner)
        self._log = log

    def stage(self, label: str, total: int) -> None:
        """Log the stage."""
        self._log.line(f"slmkit: {label}")
        super().stage(label, total)

    def beside(self, inner: Progress) -> Progress:
        """A branch, whose stages go into the same log."""
        return _Logged(inner, self._log)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Log]:
    try:
        file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UsageError(
            f"cannot write the log {path}: {error.strerror}", "choose another --log"
        ) from None
    with file:
        log = _Log(file)
        try:
            yield log
        except SlmkitError as error:
            log.line(f"Error: {error.message}\nhint: {error.hint}")
            raise


def _to_stderr(about: str, printed: bytes) -> None:
    sys.stderr.write(printed.decode(errors="replace"))
    sys.stderr.flush()
