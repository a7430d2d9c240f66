"""Who wants to know how much memory a worker process took."""

from __future__ import annotations

from contextvars import ContextVar

# Bytes, the peak of each worker that ended in this context: of the current stage.
PEAKS: ContextVar[list[int] | None] = ContextVar("peaks", default=None)


def note_peak(peak: int | None) -> None:
    """Add a worker's peak to those of the current stage, if anybody keeps them."""
    wanted = PEAKS.get()
    if wanted is not None and peak is not None:
        wanted.append(peak)
