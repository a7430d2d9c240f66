"""The protocol by which long work reports its progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol


class Progress(Protocol):
    """Receives progress, one stage at a time; work that runs beside it reports to a branch."""

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Announce the stages that are still to come: label -> seconds, by estimate."""
        ...

    def stage(self, label: str, total: int) -> None:
        """End the current stage and begin one of ``total`` units; the unit depends on the stage."""
        ...

    def advance(self, done: int) -> None:
        """Add ``done`` units to the current stage."""
        ...

    def branch(self) -> AbstractContextManager[Progress]:
        """A Progress for work in a thread of its own. Its last stage ends with it."""
        ...


class Silent:
    """A Progress that ignores all reports."""

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Do nothing."""

    def stage(self, label: str, total: int) -> None:
        """Do nothing."""

    def advance(self, done: int) -> None:
        """Do nothing."""

    @contextlib.contextmanager
    def branch(self) -> Iterator[Progress]:
        """Itself."""
        yield self
