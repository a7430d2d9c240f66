"""The ``coreml`` backend: the interface that slmkit calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slmkit.backend.interface import Artifact, Job, Progress, Runner, State
from slmkit_coreml.files import weight_files
from slmkit_coreml.import_guard import import_guard
from slmkit_coreml.options import problems
from slmkit_coreml.sizes import matrix_bytes as weight_bytes

__all__ = [
    "CALIBRATED",
    "VERSION",
    "emit",
    "open_runner",
    "problems",
    "state_bytes",
    "weight_bytes",
    "weight_files",
]

VERSION = 7
CALIBRATED = False


def state_bytes(kind: str, states: Sequence[State]) -> int:
    """Bytes of a number of the cache or a state: all are float16 outside of a package."""
    return 2


def emit(job: Job, folder: Path, progress: Progress) -> Artifact:
    """Write the artifact's files into an empty folder."""
    with import_guard():
        from slmkit_coreml.writer import write
    return write(job, folder, f"slmkit_coreml {VERSION}", progress)


def open_runner(folder: Path, artifact: Artifact, mode: str) -> Runner:
    """Load a written artifact: mode ``float32`` or ``float16``."""
    with import_guard():
        from slmkit_coreml.runner import CoremlRunner
    return CoremlRunner(folder, artifact, mode)
