"""The cost of each stage of a build: seconds, and the most memory that one process held."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from slmkit.system.process_memory import begin_anew, peak_memory
from slmkit.system.progress import Progress, Through
from slmkit.system.workers.memory import PEAKS


@dataclass(frozen=True)
class StageCost:
    """A stage that has ended. Stages of several branches overlap."""

    label: str
    start: float  # seconds after the ledger began
    seconds: float
    memory: int | None  # bytes: the peak of the stage's worker, or of this process in it


@dataclass
class _Book:
    """The costs of all branches, and the time from which they count."""

    began: float = field(default_factory=time.monotonic)
    costs: list[StageCost] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Ledger(Through):
    """A Progress that passes every report on, and keeps the cost of each stage."""

    def __init__(self, inner: Progress, book: _Book | None = None) -> None:
        super().__init__(inner)
        self._book = book or _Book()
        self._label: str | None = None
        self._start = 0.0
        self._peaks: list[int] = []

    @property
    def costs(self) -> tuple[StageCost, ...]:
        """The stages that have ended, of all branches, in the order in which they began."""
        return tuple(sorted(self._book.costs, key=lambda each: each.start))

    def stage(self, label: str, total: int) -> None:
        """Note the cost of the last stage, and begin a new one."""
        self.end()
        self._label, self._start, self._peaks = label, time.monotonic(), []
        PEAKS.set(self._peaks)
        begin_anew()
        super().stage(label, total)

    def end(self) -> None:
        """Note the cost of the current stage, if there is one."""
        now, start = time.monotonic(), self._start
        with self._book.lock:
            if self._label is not None:
                memory = max(self._peaks) if self._peaks else peak_memory()
                cost = StageCost(self._label, start - self._book.began, now - start, memory)
                self._book.costs.append(cost)
            self._label = None

    @contextlib.contextmanager
    def branch(self) -> Iterator[Progress]:
        """A ledger of another thread's stages, which go into the same book. The current stage has
        ended when others begin beside it."""
        self.end()
        with self.inner.branch() as inner:
            own = Ledger(inner, self._book)
            try:
                yield own
            finally:
                own.end()
