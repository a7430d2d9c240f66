"""The ``ort`` backend: the interface that slmkit calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slmkit.backend.interface import (
    Artifact,
    Job,
    Model,
    Progress,
    Runner,
    State,
    WeightFile,
)
from slmkit.recipe.scheme import Scheme
from slmkit_onnx.ort.files import DATA, data_bytes, matrix_bytes
from slmkit_onnx.ort.options import problems

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

VERSION = 5
CALIBRATED = False


def weight_bytes(rows: int, width: int, scheme: Scheme) -> int:
    """Bytes of a loaded matrix: codes and float32 scales; float16 is widened to float32."""
    return rows * width * 4 if scheme.bits is None else matrix_bytes((rows, width), scheme)


def weight_files(
    model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any], context_length: int
) -> list[WeightFile]:
    """The one file of weights beside the graph."""
    return [WeightFile(DATA, data_bytes(model, schemes, context_length), "the whole model")]


def state_bytes(kind: str, states: Sequence[State]) -> int:
    """Bytes of a number of the cache or a state: all are float32."""
    return 4


def emit(job: Job, folder: Path, progress: Progress) -> Artifact:
    """Write the artifact's files into an empty folder."""
    from slmkit_onnx.ort.writer import write

    return write(job, folder, f"slmkit_onnx.ort {VERSION}", progress)


def open_runner(folder: Path, artifact: Artifact, mode: str) -> Runner:
    """Load a written artifact: mode ``exact`` or ``shipped``."""
    from slmkit_onnx.ort.runner import OrtRunner

    return OrtRunner(folder, artifact, exact=mode == "exact")
