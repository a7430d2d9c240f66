"""Estimate a build from config.json alone: its files, its memory, and what would refuse it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
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
from slmkit.checkpoint.formats.gguf.blocks import likely_scheme
from slmkit.checkpoint.formats.packed.file import likely_codes
from slmkit.checkpoint.places.headers import Headers, hub_headers
from slmkit.checkpoint.places.hub import hub_model
from slmkit.checkpoint.places.located import located
from slmkit.errors import CheckpointError, RefusedError
from slmkit.interpreters.recorder import Model, summarize
from slmkit.models.registry import read_spec
from slmkit.planning.forecast import Forecast, forecast, work_of
from slmkit.planning.imports import ImportRow, import_rows
from slmkit.planning.memory import MemoryPlan, gigabytes
from slmkit.planning.plan import Choice, Request, choose, costs_of
from slmkit.recipe.scheme import Scheme

SCALES_UNREAD = (
    "scales are not read before a build: it may find codes of fewer bits or signs, which more "
    "artifacts hold exactly"
)


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
    imports: tuple[ImportRow, ...] = ()  # of a checkpoint that brings codes

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
    found = _facts(request)
    choice = choose(found.model, request, found.imports)
    artifacts = tuple(_artifact(choice, name) for name in choice.artifacts)
    return Estimate(
        found.name,
        choice.target.name,
        choice.recipe.name,
        choice.model.parameters,
        choice.context_length,
        choice.memory_limit,
        artifacts,
        _forecast(choice, artifacts, phones),
        found.notices,
        import_rows(choice.model, found.formats, found.imports, choice.schemes, found.rounded),
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
            costs = costs_of(each.artifact, choice.recipe)
            work = work_of(choice.model, choice.recipe, costs)
            works[each.artifact] = (processor, work, each.memory.total)
    return forecast(works, choice.target.name, phones)


@dataclass(frozen=True)
class _Facts:
    """All that an estimate knows of a model."""

    name: str
    model: Model
    notices: tuple[str, ...] = ()
    formats: Mapping[str, str] = field(default_factory=dict)  # of matrices stored as codes
    imports: Mapping[str, Scheme] = field(default_factory=dict)
    rounded: Collection[str] = ()  # of them, those that are not quite the stored numbers


def _facts(request: Request) -> _Facts:
    """Of a folder, a file, or a model of the hub, of which only headers are fetched."""
    unread = tuple(
        f"the adapter {each} is not read: there are no weights" for each in request.adapters
    )
    asked = hub_model(request.model)
    if asked is not None:
        return _by_headers(hub_headers(asked), request.requantize, unread)
    path = located(request.model)
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist", "--model wants a checkpoint folder, or a config.json"
        )
    config, spec = read_facts(path / CONFIG if path.is_dir() else path)
    name, model = model_name(path), summarize(spec)
    if not path.is_dir() or not has_weights(path):
        return _Facts(name, model, unread)
    try:
        checkpoint = open_checkpoint(path, adapters=request.adapters)
    except CheckpointError as error:
        if config.section(QUANTIZED):
            raise  # no float weights: there is nothing to estimate
        refused = f"the build would refuse these files: {error.message} ({error.hint})"
        return _Facts(name, model, (refused,))
    shards = checkpoint.shards
    imports = {} if request.requantize or not shards.formats else shards.imports
    rounded = shards.rounded if imports else ()
    return _Facts(name, model, checkpoint.notices, shards.formats, imports, rounded)


def _by_headers(headers: Headers, requantize: bool, unread: tuple[str, ...]) -> _Facts:
    spec = read_spec(headers.config)
    coded = {
        name.removesuffix(".weight"): entry
        for name, entry in headers.tensors.items()
        if entry.coded
    }
    formats = {name: entry.dtype for name, entry in coded.items()}
    imports = {
        name: likely_codes(entry)[0] or likely_scheme(entry.dtype) for name, entry in coded.items()
    }
    rounded = {name for name, entry in coded.items() if likely_codes(entry)[1]}
    known = {} if requantize else {name: each for name, each in imports.items() if each}
    types = ", ".join(sorted({entry.dtype for entry in headers.tensors.values()}))
    notices = [f"by headers alone: {gigabytes(headers.size)} of weights are stored ({types})"]
    if known:
        notices.append(SCALES_UNREAD)
    return _Facts(headers.name, summarize(spec), (*notices, *unread), formats, known, rounded)


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
