"""The ``litert`` backend: the interface that slmkit calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Artifact, Job, Progress, Runner, State
from slmkit.backend.prompts import PromptRuntime
from slmkit_litert.files import weight_files
from slmkit_litert.options import problems, weight_bytes

__all__ = [
    "VERSION",
    "answers_chunks",
    "emit",
    "open_prompts",
    "open_runner",
    "problems",
    "reads_calibration",
    "state_bytes",
    "weight_bytes",
    "weight_files",
]

VERSION = 7


def reads_calibration(options: Mapping[str, Any]) -> bool:
    """No: there are no ranges of activations in the artifact."""
    return False


def answers_chunks(options: Mapping[str, Any]) -> bool:
    """No: ``prefill`` fills the caches alone."""
    return False


def state_bytes(kind: str, states: Sequence[State], options: Mapping[str, Any]) -> int:
    """Bytes of a number of the cache or a state: all are float32."""
    return 4


def emit(job: Job, folder: Path, progress: Progress) -> Artifact:
    """Write the artifact's files into an empty folder."""
    from slmkit_litert.writer import write

    return write(job, folder, f"slmkit_litert {VERSION}", progress)


def open_runner(folder: Path, artifact: Artifact, mode: str) -> Runner:
    """Load a written artifact: ``float32`` or ``shipped``."""
    from slmkit_litert.runner import LitertRunner

    return LitertRunner(folder, artifact, mode)


def open_prompts(folder: Path, artifact: Artifact) -> PromptRuntime:
    """LiteRT-LM on the artifact's bundle. Raises NotExecuted, BackendError."""
    from slmkit_litert.prompts import open_litert_prompts

    return open_litert_prompts(folder, artifact)
