"""The protocol by which long work reports its progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives progress, one stage at a time."""

    def stage(self, label: str, total: int) -> None:
        """Begin a stage of ``total`` units; the unit depends on the stage."""
        ...

    def advance(self, done: int) -> None:
        """Add ``done`` units to the current stage."""
        ...


class Silent:
    """A Progress that ignores all reports."""

    def stage(self, label: str, total: int) -> None:
        """Do nothing."""

    def advance(self, done: int) -> None:
        """Do nothing."""
