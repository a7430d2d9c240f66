"""How far long work is as a whole: of the stages that were announced, those that have ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

MINUTE = 60.0
LEAST = 0.02  # of the whole: before, nothing is said about the time that is left


@dataclass
class Stage:
    """A stage that has begun."""

    label: str
    units: int
    done: int = 0

    @property
    def share(self) -> float:
        """How much of it is done, of 1."""
        return min(1.0, self.done / self.units) if self.units > 0 else 0.0


class Overall:
    """Stages of all threads. Seconds are estimates, which only weigh the stages."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._expected: dict[str, float] = {}
        self._running: list[Stage] = []
        self._ended: list[str] = []
        self._began = time.monotonic()

    @property
    def total(self) -> int:
        """Stages that were announced or have begun; 0 while none was announced."""
        with self._lock:
            others = {each.label for each in self._running} | set(self._ended)
            return len(others | set(self._expected)) if self._expected else 0

    @property
    def share(self) -> float:
        """How much of the whole is done, of 1."""
        with self._lock:
            whole = sum(self._expected.values())
            done = sum(self._expected.get(label, 0.0) for label in set(self._ended))
            running = {each.label: each.share for each in self._running}
            done += sum(
                self._expected.get(label, 0.0) * share
                for label, share in running.items()
                if label not in self._ended
            )
        return min(1.0, done / whole) if whole else 0.0

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Announce stages: label -> seconds."""
        with self._lock:
            self._expected = {**self._expected, **seconds}

    def begin(self, label: str, units: int, last: Stage | None) -> Stage:
        """A stage begins, and the last one of its thread ends."""
        self.end(last)
        stage = Stage(label, units)
        with self._lock:
            self._running.append(stage)
        return stage

    def advance(self, stage: Stage | None, done: int) -> None:
        """So many more units of a stage are done."""
        if stage is not None:
            with self._lock:
                stage.done += done

    def end(self, stage: Stage | None) -> None:
        """A stage ends."""
        with self._lock:
            if stage is not None and any(each is stage for each in self._running):
                self._running = [each for each in self._running if each is not stage]
                self._ended.append(stage.label)

    def words(self) -> list[str]:
        """Stage, percent, and the time that is left at the pace so far."""
        number = len(set(self._ended)) + 1
        share, elapsed = self.share, time.monotonic() - self._began
        found = [f"stage {min(number, self.total)} of {self.total}", f"{share:.0%}"]
        if LEAST < share < 1:
            left = elapsed * (1 - share) / share
            found.append(
                f"about {left / MINUTE:.0f} min left" if left > MINUTE else "under a minute left"
            )
        return found
