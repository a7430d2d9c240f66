"""What a backend is, what it is handed and what it hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slmkit.interpreters.recorder import Model, State
from slmkit.models.spec import Spec
from slmkit.ops import Floats, Ops, V
from slmkit.quant.codes import CodesFile
from slmkit.recipe.scheme import Scheme

__all__ = [
    "Artifact",
    "Backend",
    "Chat",
    "Forward",
    "Job",
    "Mode",
    "Model",
    "Option",
    "Runner",
    "Spec",
    "State",
    "Tensor",
    "TokenFacts",
    "WeightFile",
    "artifact_from_json",
    "one_of",
    "option_problems",
]


Chat = Callable[[Sequence[Mapping[str, str]], bool], str]  # (messages, with the answer's opening)


class Forward(Protocol):
    """The model's arithmetic, spoken to whichever interpreter is given. -> logits"""

    def __call__(self, o: Ops[V], /) -> V: ...


@dataclass(frozen=True)
class TokenFacts:
    """What a runtime must know of the tokenizer: ids, and the files to ship beside the model."""

    bos: int | None
    stop: tuple[int, ...]
    pad: int | None
    files: tuple[Path, ...]
    chat_template: str | None
    chat: Chat | None = None  # renders the template, if there is one


@dataclass(frozen=True)
class Job:
    """All that a backend needs to write one artifact."""

    artifact: str
    model: Model
    forward: Forward
    codes: CodesFile
    options: Mapping[str, Any]  # the recipe's ``artifacts: {NAME: ...}``
    context_length: int
    prefill_chunk: int
    tokens: TokenFacts
    calibration: tuple[tuple[int, ...], ...] = ()  # texts as token ids, for backends that calibrate
    about: Mapping[str, str] = field(default_factory=dict)  # model, recipe, license, slmkit
    target: str = ""  # the platform that the artifact is for
    debug: bool = False  # tapped intermediates become outputs, "tap.NAME"
    payload: Mapping[str, Any] = field(default_factory=dict)  # itself, for a process of its own

    @property
    def spec(self) -> Spec:
        """The model's facts."""
        return self.model.spec


@dataclass(frozen=True)
class Tensor:
    """One input or output of an artifact, for the manifest; a text dimension is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    about: str
    scale: float | None = None  # real = (integer - zero_point) * scale
    zero_point: int | None = None


@dataclass(frozen=True)
class Mode:
    """One way to run an artifact for parity, and what it is compared with.

    ``bounds``: what it is compared with ("reference", on the same codes, or an earlier mode of the
    artifact) -> the key of the recipe's ``parity`` that it must keep.
    """

    name: str
    about: str
    bounds: Mapping[str, str]
    prompts: int | None = None  # only the first so many golden prompts: for slow runtimes


@dataclass(frozen=True)
class Artifact:
    """What a backend wrote: facts for the manifest and for its own runner."""

    name: str
    backend: str  # name and version of the code that wrote it
    format: str
    modes: tuple[Mode, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    shipped: str = ""  # the mode that is nearest to what an app runs; else the last

    @property
    def default_mode(self) -> str:
        """The mode for answering and scoring."""
        return self.shipped or self.modes[-1].name


@dataclass(frozen=True)
class WeightFile:
    """A file (or package) of an artifact that holds weights, as ``emit`` is going to write it."""

    name: str  # its path in the artifact's folder
    size: int  # bytes of weights; graphs and code beside them are small
    about: str  # which weights; equal for files that are pieces of one thing


@dataclass(frozen=True)
class Option:
    """One key of the recipe's ``artifacts: {NAME: ...}``: what it may be, and in words."""

    fits: Callable[[Any], bool]
    expected: str


def one_of(*allowed: Any) -> Option:
    """An option with a few values; true and false are no numbers."""
    types = {type(each) for each in allowed}
    return Option(
        lambda value: type(value) in types and value in allowed,
        f"one of {', '.join(map(str, allowed))}",
    )


def option_problems(
    artifact: str, values: Mapping[str, Any], options: Mapping[str, Option]
) -> list[str]:
    """Unknown keys and values that do not fit, one sentence each."""
    found = []
    for key, value in values.items():
        at = f"artifacts.{artifact}.{key}"
        if key not in options:
            found.append(f"{at}: unknown key; known: {', '.join(options)}")
        elif not options[key].fits(value):
            found.append(f"{at} is {value!r}, expected {options[key].expected}")
    return found


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


class Backend(Protocol):
    """A module (or object) that writes and runs one kind of artifact."""

    VERSION: int  # raised when the same job would be written differently
    CALIBRATED: bool  # whether it listens to the job's calibration texts

    def problems(
        self, model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any]
    ) -> list[str]:
        """Everything this backend cannot do for the model and recipe, one sentence each."""
        ...

    def weight_bytes(self, rows: int, width: int, scheme: Scheme) -> int:
        """What one matrix takes in the runtime's memory."""
        ...

    def state_bytes(self, kind: str, states: Sequence[State]) -> int:
        """What one number takes that is kept from token to token: of the KV cache ("kv"), or of a
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

    def emit(self, job: Job, folder: Path, progress: Callable[[int, int], None]) -> Artifact:
        """Write the artifact's files into an empty folder."""
        ...

    def open_runner(self, folder: Path, artifact: Artifact, mode: str) -> Runner:
        """Load a written artifact in one of its modes."""
        ...


def artifact_from_json(values: Mapping[str, Any]) -> Artifact:
    """The inverse of ``dataclasses.asdict`` for an Artifact."""
    return Artifact(
        name=values["name"],
        backend=values["backend"],
        format=values["format"],
        modes=tuple(Mode(**mode) for mode in values["modes"]),
        inputs=_tensors(values["inputs"]),
        outputs=_tensors(values["outputs"]),
        facts=values["facts"],
        shipped=values["shipped"],
    )


def _tensors(values: Sequence[Mapping[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(**{**value, "shape": tuple(value["shape"])}) for value in values)
