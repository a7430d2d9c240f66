"""The ``litert`` backend as slmkit finds it: what it cannot do, how it writes, how it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from slmkit.target import Artifact, Job, Runner
from slmkit_litert.files import weight_files
from slmkit_litert.options import problems, weight_bytes

__all__ = [
    "CALIBRATED", "KV_BYTES", "VERSION", "emit", "open_runner", "problems", "weight_bytes",
    "weight_files",
]  # fmt: skip

VERSION = 4
KV_BYTES = 4  # float32
CALIBRATED = False


def emit(job: Job, folder: Path, progress: Callable[[int, int], None]) -> Artifact:
    """Write the artifact's files into an empty folder."""
    from slmkit_litert.write import write

    return write(job, folder, f"slmkit_litert {VERSION}", progress)


def open_runner(folder: Path, artifact: Artifact, mode: str) -> Runner:
    """Load a written artifact: ``float32`` or ``shipped``."""
    from slmkit_litert.run import LitertRunner

    return LitertRunner(folder, artifact, mode)
