"""Estimate a build from config.json alone: its files, its memory, and what would refuse it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slmkit.backend.interface import WeightFile
from slmkit.backend.registry import declarations, find_backend
from slmkit.checkpoint.folder import (
    CONFIG,
    QUANTIZED,
    has_weights,
    model_name,
    open_checkpoint,
    read_facts,
)
from slmkit.errors import CheckpointError, RefusedError
from slmkit.interpreters.recorder import summarize
from slmkit.models.config import Config
from slmkit.planning.forecast import Forecast, forecast, work_of
from slmkit.planning.memory import MemoryPlan
from slmkit.planning.plan import Choice, Request, choose, costs_of


@dataclass(frozen=True)
class ArtifactEstimate:
    """One artifact before it is built; without files if its backend refuses it."""

    artifact: str
    files: tuple[WeightFile, ...]
    memory: MemoryPlan
    refused: tuple[str, ...]  # why the build would stop, one sentence each

    @property
    def size(self) -> int:
        """Bytes of all files with weights."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Estimate:
    """A build, as far as shapes and the recipe decide it."""

    name: str
    target: str
    recipe: str
    parameters: int
    context_length: int
    memory_limit: int
    artifacts: tuple[ArtifactEstimate, ...]
    forecast: Forecast  # on phones, of artifacts that are not refused for what they are
    notices: tuple[str, ...] = ()  # of the weights and the tokenizer, where they are there

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        values = asdict(self)
        for row, each in zip(values["artifacts"], self.artifacts, strict=True):
            row["size"], row["memory"]["total"] = each.size, each.memory.total
        return values

    def check(self) -> None:
        """Raise RefusedError if the build would be refused."""
        reasons = [f"{each.artifact}: {why}" for each in self.artifacts for why in each.refused]
        if reasons:
            raise RefusedError(
                f"the build would be refused: {'; '.join(reasons)}",
                "--artifacts leaves an artifact out; recipes/README.md explains every key",
            )


def estimate(request: Request, phones: tuple[str, ...] | None = None) -> Estimate:
    """Estimate a build of a folder in which nothing but config.json need be, or of such a file.

    ``phones``: names of those to forecast speed on; by default the short list.
    """
    path = request.model
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist", "--model wants a checkpoint folder, or a config.json"
        )
    config, spec = read_facts(path / CONFIG if path.is_dir() else path)
    choice = choose(summarize(spec), request)
    artifacts = tuple(_artifact(choice, name) for name in choice.artifacts)
    return Estimate(
        model_name(path),
        choice.target.name,
        choice.recipe.name,
        choice.model.parameters,
        choice.context_length,
        choice.memory_limit,
        artifacts,
        _forecast(choice, artifacts, phones),
        _notices(path, config, request.adapters),
    )


def _forecast(
    choice: Choice, artifacts: tuple[ArtifactEstimate, ...], phones: tuple[str, ...] | None
) -> Forecast:
    """Of the artifacts that can be written, on the target's phones."""
    declared = declarations()
    works = {}
    for each in artifacts:
        processor = declared[each.artifact].processor
        if each.files and processor is not None:
            work = work_of(choice.model, choice.recipe, costs_of(each.artifact))
            works[each.artifact] = (processor, work, each.memory.total)
    return forecast(works, choice.target.name, phones)


def _notices(path: Path, config: Config, adapters: Sequence[Path]) -> tuple[str, ...]:
    """The notices of a checkpoint; that it cannot be opened is one. None without weights."""
    if not path.is_dir() or not has_weights(path):
        return tuple(f"the adapter {each} is not read: there are no weights" for each in adapters)
    try:
        return open_checkpoint(path, adapters=adapters).notices
    except CheckpointError as error:
        if config.section(QUANTIZED):
            raise  # no float weights: there is nothing to estimate
        return (f"the build would refuse these files: {error.message} ({error.hint})",)


def _artifact(choice: Choice, artifact: str) -> ArtifactEstimate:
    planned, refusal = choice.memory(artifact)
    problems = choice.problems(artifact)
    if problems:
        return ArtifactEstimate(artifact, (), planned, tuple(problems))
    files = find_backend(artifact).weight_files(
        choice.model,
        choice.encoding(artifact).schemes,
        choice.recipe.options(artifact),
        choice.context_length,
    )
    reasons = (f"{refusal.message} ({refusal.hint})",) if refusal else ()
    return ArtifactEstimate(artifact, tuple(files), planned, reasons)
