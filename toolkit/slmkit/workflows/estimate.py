"""What a build would write and need, and what would refuse it: from config.json alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from slmkit.backend.interface import WeightFile
from slmkit.backend.registry import find_backend
from slmkit.checkpoint.folder import CONFIG, model_name, read_facts
from slmkit.errors import CheckpointError, SlmkitError
from slmkit.interpreters.recorder import Model, summarize
from slmkit.planning import memory
from slmkit.planning.plan import (
    Choice,
    Request,
    choose,
    costs_of,
    problems_of,
    refuse,
    unknown_artifacts,
)


@dataclass(frozen=True)
class Expected:
    """One artifact, before anything of it is there; without files if its backend refuses it."""

    artifact: str
    files: tuple[WeightFile, ...]
    memory: memory.MemoryPlan
    refused: tuple[str, ...]  # why the build would stop, one sentence each

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Forecast:
    """A build, as far as shapes and the recipe decide it."""

    name: str
    target: str
    recipe: str
    parameters: int
    context_length: int
    memory_limit: int
    artifacts: tuple[Expected, ...]

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        values = asdict(self)
        for row, each in zip(values["artifacts"], self.artifacts, strict=True):
            row["size"], row["memory"]["total"] = each.size, each.memory.total
        return values

    def check(self) -> None:
        """Raises SlmkitError if the build would be refused."""
        reasons = [f"{each.artifact}: {why}" for each in self.artifacts for why in each.refused]
        if reasons:
            raise SlmkitError(
                f"the build would be refused: {'; '.join(reasons)}",
                "--artifacts leaves an artifact out; recipes/README.md explains every key",
            )


def forecast(request: Request) -> Forecast:
    """Of a folder in which nothing but config.json need be, or of such a file."""
    path = request.model
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist", "--model wants a checkpoint folder, or a config.json"
        )
    _, spec = read_facts(path / CONFIG if path.is_dir() else path)
    choice = choose(spec, request)
    refuse(choice.recipe, unknown_artifacts(choice.recipe))
    model = summarize(spec.at_context(choice.context_length))
    return Forecast(
        model_name(path),
        choice.platform.name,
        choice.recipe.name,
        model.parameters,
        choice.context_length,
        choice.memory_limit,
        tuple(_expected(model, choice, name) for name in choice.artifacts),
    )


def _expected(model: Model, choice: Choice, artifact: str) -> Expected:
    problems = problems_of(model, choice, artifact)
    costs, recipe = costs_of(artifact), choice.recipe
    planned = memory.plan(model.spec, recipe, choice.context_length, costs)
    error = memory.refusal(model.spec, recipe, planned, choice.memory_limit, costs)
    if problems:
        return Expected(artifact, (), planned, tuple(problems))
    files = find_backend(artifact).weight_files(
        model, choice.encoding(artifact).schemes, recipe.options(artifact), choice.context_length
    )
    reasons = (f"{error.message} ({error.hint})",) if error else ()
    return Expected(artifact, tuple(files), planned, reasons)
