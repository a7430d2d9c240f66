"""How long work says how far it is; whoever shows it decides how."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of one stage at a time."""

    def stage(self, label: str, total: int) -> None:
        """A new stage begins; ``total`` in units of its own."""
        ...

    def advance(self, done: int) -> None:
        """``done`` more units of the current stage."""
        ...


class Silent:
    """Shows nothing."""

    def stage(self, label: str, total: int) -> None:
        """Nothing."""

    def advance(self, done: int) -> None:
        """Nothing."""
