"""The ``coreml`` backend: the interface that slmkit calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slmkit.backend.import_guard import without
from slmkit.backend.interface import Artifact, Job, Progress, Runner, State
from slmkit_coreml.files import weight_files
from slmkit_coreml.options import problems
from slmkit_coreml.sizes import matrix_bytes as weight_bytes

__all__ = [
    "VERSION",
    "answers_chunks",
    "emit",
    "open_runner",
    "problems",
    "reads_calibration",
    "state_bytes",
    "weight_bytes",
    "weight_files",
]

VERSION = 7
# coremltools converts models of theirs; it imports those that are installed.
FRAMEWORKS = ("tensorflow", "torch", "transformers", "sklearn", "xgboost", "libsvm")


def reads_calibration(options: Mapping[str, Any]) -> bool:
    """No: there are no ranges of activations in the artifact."""
    return False


def answers_chunks(options: Mapping[str, Any]) -> bool:
    """Yes: the function of a chunk has one form."""
    return True


def state_bytes(kind: str, states: Sequence[State], options: Mapping[str, Any]) -> int:
    """Bytes of a number of the cache or a state: all are float16 outside of a package."""
    return 2


def emit(job: Job, folder: Path, progress: Progress) -> Artifact:
    """Write the artifact's files into an empty folder."""
    with without(*FRAMEWORKS):
        from slmkit_coreml.writer import write
    return write(job, folder, f"slmkit_coreml {VERSION}", progress)


def open_runner(folder: Path, artifact: Artifact, mode: str) -> Runner:
    """Load a written artifact: mode ``float32`` or ``float16``."""
    with without(*FRAMEWORKS):
        from slmkit_coreml.runner import CoremlRunner
    return CoremlRunner(folder, artifact, mode)
