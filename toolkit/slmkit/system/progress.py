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


class Through:
    """A Progress that passes all reports on: for those that add something to it."""

    def __init__(self, inner: Progress) -> None:
        self.inner = inner

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Pass the announcement on."""
        self.inner.expect(seconds)

    def stage(self, label: str, total: int) -> None:
        """Pass the stage on."""
        self.inner.stage(label, total)

    def advance(self, done: int) -> None:
        """Pass the report on."""
        self.inner.advance(done)

    def beside(self, inner: Progress) -> Progress:
        """Its like, for a branch of the one that it passes reports to."""
        return type(self)(inner)

    @contextlib.contextmanager
    def branch(self) -> Iterator[Progress]:
        """Its like, for another thread."""
        with self.inner.branch() as inner:
            yield self.beside(inner)
