"""The ``ort`` backend: the interface that slmkit calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slmkit.backend.interface import (
    Artifact,
    Job,
    LowRank,
    Model,
    Progress,
    Runner,
    State,
    WeightFile,
)
from slmkit.backend.prompts import PromptRuntime
from slmkit.recipe.scheme import Scheme
from slmkit_onnx.ort.files import DATA, data_bytes, matrix_bytes
from slmkit_onnx.ort.options import answers_last, has_int8_cache, problems

__all__ = [
    "VERSION",
    "adapter_problems",
    "answers_chunks",
    "emit",
    "emit_adapter",
    "open_adapted_runner",
    "open_prompts",
    "open_runner",
    "problems",
    "reads_calibration",
    "state_bytes",
    "weight_bytes",
    "weight_files",
]

VERSION = 7


def weight_bytes(rows: int, width: int, scheme: Scheme) -> int:
    """Bytes of a loaded matrix: codes and float32 scales; float16 is widened to float32."""
    return rows * width * 4 if scheme.bits is None else matrix_bytes((rows, width), scheme)


def weight_files(
    model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any], context_length: int
) -> list[WeightFile]:
    """The one file of weights beside the graph."""
    return [WeightFile(DATA, data_bytes(model, schemes, context_length), "the whole model")]


def reads_calibration(options: Mapping[str, Any]) -> bool:
    """For the ranges of keys and values, if they become integers."""
    return has_int8_cache(options)


def answers_chunks(options: Mapping[str, Any]) -> bool:
    """With the option ``logits: all``."""
    return not answers_last(options)


def state_bytes(kind: str, states: Sequence[State], options: Mapping[str, Any]) -> int:
    """Bytes of a number of the cache or a state: float32, but for a KV cache of integers."""
    return 1 if kind == "kv" and has_int8_cache(options) else 4


def emit(job: Job, folder: Path, progress: Progress) -> Artifact:
    """Write the artifact's files into an empty folder."""
    from slmkit_onnx.ort.writer import write

    return write(job, folder, f"slmkit_onnx.ort {VERSION}", progress)


def open_runner(folder: Path, artifact: Artifact, mode: str) -> Runner:
    """Load a written artifact: mode ``exact`` or ``shipped``."""
    from slmkit_onnx.ort.runner import OrtRunner

    return OrtRunner(folder, artifact, exact=mode == "exact")


def adapter_problems(artifact: Artifact, names: Sequence[str]) -> list[str]:
    """Why an adapter of these weights cannot be used beside the artifact, one sentence each."""
    from slmkit_onnx.ort import adapter_file

    return adapter_file.adapter_problems(artifact, names)


def emit_adapter(artifact: Artifact, low_ranks: Mapping[str, LowRank], folder: Path) -> str:
    """Write an adapter's file for ONNX Runtime into ``folder``; its name."""
    from slmkit_onnx.ort.adapter_file import write_adapter

    return write_adapter(artifact, low_ranks, folder)


def open_adapted_runner(folder: Path, artifact: Artifact, mode: str, adapter: Path) -> Runner:
    """Load a written artifact with an adapter's file beside it."""
    from slmkit_onnx.ort.runner import OrtRunner

    return OrtRunner(folder, artifact, exact=mode == "exact", adapter=adapter)


def open_prompts(folder: Path, artifact: Artifact) -> PromptRuntime:
    """onnxruntime-genai's tokenizer on the artifact's folder. Raises NotExecuted, RefusedPrompt."""
    from slmkit_onnx.prompts import open_genai_prompts

    return open_genai_prompts(folder)
