"""Types of an artifact: its tensors, modes, state and report, as the manifest has them.

Each type exists once: backends construct it, workers send it as JSON, the manifest stores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from slmkit.interpreters.recorder import Model, State

STRICT = ConfigDict(extra="forbid")
PROOF = "proof"  # the folder of a bundle's files that no app loads


@dataclass(frozen=True, config=STRICT)
class Tensor:
    """One input or output of an artifact; a dimension given as text is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    about: str
    scale: float | None = None  # real = (integer - zero_point) * scale
    zero_point: int | None = None


@dataclass(frozen=True, config=STRICT)
class Mode:
    """One way to run an artifact for parity, and what it is compared with.

    ``bounds``: what it is compared with ("reference", on the same codes, or an earlier mode of the
    artifact) -> the error kind, whose bound it must keep: a key of the recipe's ``parity``.
    """

    name: str
    about: str
    bounds: dict[str, str]
    prompts: int | None = None  # compare only the first golden prompts: for slow runtimes


@dataclass(frozen=True, config=STRICT)
class SequenceState:
    """The memory of one sequence between two calls: a KV cache, recurrent states, or both."""

    context_length: int  # most tokens of a sequence
    attention_layers: tuple[int, ...]  # layers with a KV cache
    kv_heads: int  # G
    head_width: int  # d
    states: tuple[State, ...]  # recurrent states of the other layers

    @classmethod
    def of(cls, model: Model, context_length: int) -> SequenceState:
        """The state of a model's sequences."""
        spec = model.spec
        return cls(
            context_length,
            model.attention_layers,
            spec.kv_heads,
            spec.head_width,
            model.states,
        )


@dataclass(frozen=True, config=STRICT)
class ReportTable:
    """A table that a backend adds to ``slmkit inspect``: its title, column titles, and rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, config=STRICT)
class Report:
    """A backend's own findings, in words."""

    lines: tuple[str, ...] = ()  # for the end of a build
    tables: tuple[ReportTable, ...] = ()  # for ``slmkit inspect``
    not_executed: tuple[str, ...] = ()  # what ships and could not be executed here, and why


@dataclass(frozen=True, config=STRICT)
class Artifact:
    """An artifact as its backend wrote it."""

    name: str
    backend: str  # name and version of the code that wrote it
    format: str
    modes: tuple[Mode, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    state: SequenceState
    facts: dict[str, Any] = field(default_factory=dict)  # for apps, and for the backend's runner
    shipped: str = ""  # the mode that is nearest to what an app runs; empty: the last
    report: Report = field(default_factory=Report)
    # Patterns of the files in the artifact's folder that an app loads, by the device that they are
    # for ("sm8650", "adreno"; "": every one), and of those that they are compiled from. All other
    # files are for the proof. In a bundle, those that no app loads lie apart: see ``file_of``.
    ships: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    app_tokenizer: bool = False  # an app needs the bundle's tokenizer beside them
    # Of those that ship, patterns of files that are linked into the app: no store delivers them.
    linked: tuple[str, ...] = ()
    # Of devices that are chips: the names that phones with one give in Android's Build.SOC_MODEL.
    soc_models: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def default_mode(self) -> str:
        """The mode for answering and scoring."""
        return self.shipped or self.modes[-1].name


def file_of(folder: Path, name: str) -> Path:
    """A file of an artifact, by its name in the folder that the backend wrote: it lies there, or in
    a bundle in ``proof/`` beside it, if no app loads it."""
    path = folder / name
    return path if path.exists() else folder.parent / PROOF / folder.name / name


_ADAPTER = TypeAdapter(Artifact)


def artifact_to_json(artifact: Artifact) -> dict[str, Any]:
    """The artifact as JSON values; of a bundled one, only what its backend said."""
    values: dict[str, Any] = _ADAPTER.dump_python(artifact, mode="json")
    return values


def artifact_from_json(values: Mapping[str, Any]) -> Artifact:
    """The inverse of ``artifact_to_json``."""
    return _ADAPTER.validate_python(values)
