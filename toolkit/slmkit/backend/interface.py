"""The interface between slmkit and a backend: the job it is handed, and what it must offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from slmkit.activations.input_parts import input_parts
from slmkit.activations.keys_and_values import cache_sizes
from slmkit.activations.outliers import outlier_counts
from slmkit.backend.artifact import (
    Artifact,
    Mode,
    Report,
    ReportTable,
    SequenceState,
    Tensor,
)
from slmkit.checkpoint.adapters.change import LowRank
from slmkit.checkpoint.generation import Generation
from slmkit.interpreters.recorder import Model, State
from slmkit.models.spec import Spec
from slmkit.ops import Floats
from slmkit.quant.codes import CodesFile
from slmkit.recipe.scheme import Scheme

__all__ = [
    "Artifact",
    "Backend",
    "Chat",
    "Generation",
    "InParts",
    "Job",
    "LowRank",
    "Mode",
    "Model",
    "Portable",
    "Prefilling",
    "Progress",
    "Report",
    "ReportTable",
    "Rewindable",
    "Runner",
    "SequenceState",
    "Spec",
    "State",
    "TakesAdapters",
    "Tensor",
    "TokenFacts",
    "WeightFile",
    "cache_sizes",
    "input_parts",
    "outlier_counts",
]

Chat = Callable[[Sequence[Mapping[str, str]], bool], str]  # (messages, with the answer's opening)
Portable = Callable[..., str | None]  # ``slmkit.checkpoint.chat.portable.portable_template``
Progress = Callable[[int, int], None]  # (steps done, of how many)


@dataclass(frozen=True)
class TokenFacts:
    """Facts of the tokenizer for an artifact's runtime: ids, and files to ship beside the model."""

    bos: int | None
    stop: tuple[int, ...]
    pad: int | None
    files: tuple[Path, ...]
    chat_template: str | None
    chat: Chat | None = None  # renders the template, if there is one
    special: Mapping[str, str] = field(default_factory=dict)  # role -> text: "bos_token" -> "<s>"
    adds_bos: bool = False  # the tokenizer puts bos before a text
    portable: Portable | None = None  # an equal template that every runtime's Jinja renders
    dated: bool = False  # the template writes the date
    generation: Generation = field(default_factory=Generation)  # as the model's author says
    active: int | None = None  # ids below this one have a token; None: not known


@dataclass(frozen=True)
class Job:
    """All that a backend needs to write one artifact."""

    artifact: str
    model: Model
    codes: CodesFile
    options: Mapping[str, Any]  # the recipe's ``artifacts: {NAME: ...}``
    context_length: int
    prefill_chunk: int
    tokens: TokenFacts
    calibration: tuple[tuple[int, ...], ...] = ()  # texts as token ids, for backends that calibrate
    about: Mapping[str, str] = field(default_factory=dict)  # model, recipe, license, slmkit
    target: str = ""
    debug: bool = False  # tapped intermediates become outputs, "tap.NAME"
    cache: Path | None = None  # a folder for intermediate files that several artifacts may share

    @property
    def spec(self) -> Spec:
        """The model's facts."""
        return self.model.spec

    @property
    def state(self) -> SequenceState:
        """The memory of one sequence of the artifact."""
        return SequenceState.of(self.model, self.context_length)


@dataclass(frozen=True)
class WeightFile:
    """A file (or package) of an artifact that holds weights, as ``emit`` is going to write it."""

    name: str  # its path in the artifact's folder
    size: int  # bytes of weights; graphs and code beside them are small
    about: str  # which weights; equal for files that are pieces of one thing


class Runner(Protocol):
    """An artifact, loaded in its runtime, with one sequence's state."""

    runtime: str  # name, version and device: "onnxruntime 1.31.1, CPU"
    context_length: int

    @property
    def taps(self) -> Mapping[str, Floats]:
        """Marked intermediates of the last feed; empty unless built for debugging."""
        ...

    def reset(self) -> None:
        """Forget the sequence."""
        ...

    def feed(self, ids: NDArray[np.int64]) -> Floats:
        """Append tokens to the sequence; their logits, (T, V)."""
        ...


@runtime_checkable
class Rewindable(Protocol):
    """A runner that can go back to an earlier point of its sequence, as often as one likes."""

    def mark(self) -> object:
        """The sequence as it is now, to return to; valid after ``reset`` too."""
        ...

    def rewind(self, mark: object) -> None:
        """Make the sequence what it was at ``mark``."""
        ...


@runtime_checkable
class Prefilling(Protocol):
    """A runner that reads a prompt as an app does, where ``feed`` computes more than that."""

    def prefill(self, ids: NDArray[np.int64]) -> Floats:
        """Append a prompt; the logits of its last token, (V,)."""
        ...


@runtime_checkable
class InParts(Protocol):
    """A runner that may hold a part of its model at a time, where memory is short.

    The same tokens are then fed once for each part, in its order; logits come with the last part,
    before it they have no columns. Until a part is opened, the whole model answers.
    """

    @property
    def parts(self) -> int:
        """How many there are; 1 where the whole model may be held."""
        ...

    def open_part(self, number: int) -> None:
        """Hold the part ``number``, from 0 on, and forget the sequence."""
        ...


class Backend(Protocol):
    """A module (or object) that writes and runs one kind of artifact."""

    VERSION: int  # raised when the same job would be written differently

    def reads_calibration(self, options: Mapping[str, Any]) -> bool:
        """Whether ``emit`` reads the job's calibration texts."""
        ...

    def answers_chunks(self, options: Mapping[str, Any]) -> bool:
        """Whether a prompt's chunk computes the logits of all its tokens, not of its last one."""
        ...

    def problems(
        self, model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any]
    ) -> list[str]:
        """Everything this backend cannot do for the model and recipe, one sentence each."""
        ...

    def weight_bytes(self, rows: int, width: int, scheme: Scheme) -> int:
        """Bytes of one matrix in the runtime's memory."""
        ...

    def state_bytes(self, kind: str, states: Sequence[State], options: Mapping[str, Any]) -> int:
        """Bytes of one number that is kept from token to token: of the KV cache ("kv"), or of a
        state of this kind, in a model with these states."""
        ...

    def weight_files(
        self,
        model: Model,
        schemes: Mapping[str, Scheme],
        options: Mapping[str, Any],
        context_length: int,
    ) -> list[WeightFile]:
        """The files with weights that ``emit`` writes if there are no ``problems``: nothing but
        shapes and schemes is known yet."""
        ...

    def emit(self, job: Job, folder: Path, progress: Progress) -> Artifact:
        """Write the artifact's files into an empty folder."""
        ...

    def open_runner(self, folder: Path, artifact: Artifact, mode: str) -> Runner:
        """Load a written artifact in one of its modes. Files that it does not ship lie where
        ``slmkit.backend.artifact.file_of`` finds them."""
        ...


@runtime_checkable
class TakesAdapters(Protocol):
    """A backend whose artifacts take LoRA adapters from files of their own, beside the base's."""

    def adapter_problems(self, artifact: Artifact, names: Sequence[str]) -> list[str]:
        """Why an adapter of these weights cannot be used with the artifact, one sentence each."""
        ...

    def emit_adapter(
        self, artifact: Artifact, low_ranks: Mapping[str, LowRank], folder: Path
    ) -> str:
        """Write an adapter, by weight name, as one file into ``folder``; its name. The artifact's
        own files are neither read nor changed."""
        ...

    def open_adapted_runner(
        self, folder: Path, artifact: Artifact, mode: str, adapter: Path
    ) -> Runner:
        """Load a written artifact in one of its modes, with an adapter's file."""
        ...
