"""The ``mlc`` backend: the interface that slmkit calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Artifact, Job, Progress, Runner, State
from slmkit.backend.prompts import PromptRuntime
from slmkit_mlc.options import problems, weight_bytes
from slmkit_mlc.shards import weight_files
from slmkit_mlc.sizes import activation_dtype

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

VERSION = 6


def reads_calibration(options: Mapping[str, Any]) -> bool:
    """No: there are no ranges of activations in the artifact."""
    return False


def answers_chunks(options: Mapping[str, Any]) -> bool:
    """No: MLC's ``prefill`` takes the last token of a chunk."""
    return False


def state_bytes(kind: str, states: Sequence[State], options: Mapping[str, Any]) -> int:
    """Bytes of a number: states are float32, the KV cache has the library's type."""
    return 2 if kind == "kv" and activation_dtype(states) == "float16" else 4


def emit(job: Job, folder: Path, progress: Progress) -> Artifact:
    """Write the artifact's files into an empty folder."""
    from slmkit_mlc.writer import write

    return write(job, folder, f"slmkit_mlc {VERSION}", progress)


def open_runner(folder: Path, artifact: Artifact, mode: str) -> Runner:
    """Load a written artifact in a mode of ``slmkit_mlc.writer.modes_of``."""
    from slmkit_mlc.runner import MlcRunner

    return MlcRunner(folder, artifact, mode)


def open_prompts(folder: Path, artifact: Artifact) -> PromptRuntime:
    """MLC's rules on the artifact's chat configuration. Raises NotExecuted, RefusedPrompt."""
    from slmkit_mlc.prompts import MlcPrompts

    return MlcPrompts(folder, artifact)
