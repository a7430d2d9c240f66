"""The ``hexagon`` backend: the interface that slmkit calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Artifact, Job, Model, Progress, Runner, State, WeightFile
from slmkit.backend.prompts import PromptRuntime
from slmkit.recipe.scheme import Scheme
from slmkit_onnx.hexagon import files, options, partition
from slmkit_onnx.hexagon.contract import STATES

VERSION = 10


def problems(model: Model, schemes: Mapping[str, Scheme], values: Mapping[str, Any]) -> list[str]:
    """The reasons why a model and recipe are refused, one sentence each; none if they are not."""
    return options.problems(model, schemes, values)


def weight_bytes(rows: int, width: int, scheme: Scheme) -> int:
    """Bytes of a matrix: codes, multipliers of 8 bits, float32 channel scales."""
    return partition.matrix_bytes(rows, width, scheme)


def weight_files(
    model: Model, schemes: Mapping[str, Scheme], values: Mapping[str, Any], context_length: int
) -> list[WeightFile]:
    """The file that all graphs share, and a binary for each chip and part."""
    return files.weight_files(model, schemes, values)


def reads_calibration(options: Mapping[str, Any]) -> bool:
    """Yes: for the ranges of activations."""
    return True


def answers_chunks(options: Mapping[str, Any]) -> bool:
    """Yes: the graph of a chunk has one form."""
    return True


def state_bytes(kind: str, states: Sequence[State], values: Mapping[str, Any]) -> int:
    """Bytes of a number: the KV cache and convolutions' states are int16, scans' float32; under
    onnxruntime-genai the KV cache has 8 bits."""
    if kind == "kv" and values.get("runtime") == "genai":
        return 1
    return 4 if STATES.get(kind) == "float32" else 2


def emit(job: Job, folder: Path, progress: Progress) -> Artifact:
    """Write the artifact's files into an empty folder."""
    from slmkit_onnx.hexagon.writer import write

    return write(job, folder, f"slmkit_onnx.hexagon {VERSION}", progress)


def open_runner(folder: Path, artifact: Artifact, mode: str) -> Runner:
    """Load a written artifact in one of the modes of ``hexagon.modes``."""
    from slmkit_onnx.hexagon.modes import open_runner

    return open_runner(folder, artifact, mode)


def open_prompts(folder: Path, artifact: Artifact) -> PromptRuntime:
    """onnxruntime-genai's tokenizer on the artifact's folder. Raises NotExecuted, RefusedPrompt."""
    from slmkit_onnx.prompts import open_genai_prompts

    return open_genai_prompts(folder)
