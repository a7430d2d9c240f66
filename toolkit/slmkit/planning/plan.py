"""What a build decides before anything is written: artifacts, encodings, memory, the place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slmkit.backend.registry import find_backend
from slmkit.backend.targets import Platform, find_platform, known_artifacts
from slmkit.checkpoint.folder import Checkpoint, open_checkpoint
from slmkit.errors import RecipeError, SlmkitError
from slmkit.interpreters.recorder import Model, record, summarize
from slmkit.models.spec import Spec
from slmkit.planning import memory
from slmkit.planning.calibration import calibration_texts
from slmkit.quant.codes import CodesFile
from slmkit.quant.quantize import VERSION as QUANT_VERSION
from slmkit.quant.quantize import quantize
from slmkit.recipe.recipe import ArtifactOptions, Recipe, load_recipe
from slmkit.recipe.scheme import Scheme
from slmkit.system.cache import Cache, key_of
from slmkit.system.progress import Progress

CHIPS = "hexagon"  # the artifact that --soc is for
EVERY = "all"  # how a report names the artifacts, if they share one encoding


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    model: Path
    target: str
    recipe: str
    out: Path = Path("dist")
    context: int | None = None
    memory_limit: int | None = None  # bytes
    artifacts: tuple[str, ...] = ()
    socs: tuple[str, ...] = ()  # chips to compile for; empty: the recipe's, or the backend's
    calibration: Path | None = None  # text to listen to; None: the checkpoint's own, or ours
    force: bool = False
    cache: Path | None = None  # None: no cache


@dataclass(frozen=True, eq=False)
class Encoding:
    """One encoding of all weights, made once, and the artifacts that hold it."""

    name: str  # for reports: EVERY, or the artifacts' names
    artifacts: tuple[str, ...]
    schemes: Mapping[str, Scheme]

    @property
    def golden(self) -> str:
        """The file of the reference's answers on these codes, in the bundle."""
        return f"parity/golden-{'-'.join(self.artifacts)}.safetensors"


@dataclass(frozen=True)
class Choice:
    """What a request means for a model: all that its config.json and the recipe decide."""

    platform: Platform
    recipe: Recipe
    artifacts: tuple[str, ...]
    encodings: tuple[Encoding, ...]
    context_length: int
    memory_limit: int  # bytes

    def encoding(self, artifact: str) -> Encoding:
        """The encoding that an artifact holds."""
        return next(each for each in self.encodings if artifact in each.artifacts)


@dataclass(frozen=True)
class Plan:
    """Everything decided before anything is written."""

    checkpoint: Checkpoint
    platform: Platform
    recipe: Recipe
    artifacts: tuple[str, ...]
    encodings: tuple[Encoding, ...]
    context_length: int
    memory: Mapping[str, memory.MemoryPlan]  # by artifact
    parameters: int
    calibration: tuple[tuple[int, ...], ...]  # texts as token ids
    place: Path

    def encoding(self, artifact: str) -> Encoding:
        """The encoding that an artifact holds."""
        return next(each for each in self.encodings if artifact in each.artifacts)


def make_plan(request: Request) -> Plan:
    """Check everything that can be checked before work begins. Raises SlmkitError."""
    checkpoint = open_checkpoint(request.model)
    spec = checkpoint.spec
    choice, model = choose(spec, request), summarize(spec)
    recipe, context_length = choice.recipe, choice.context_length
    own = [why for name in choice.artifacts for why in problems_of(model, choice, name)]
    refuse(recipe, [*unknown_artifacts(recipe), *own])
    plans = {
        name: memory.check(spec, recipe, context_length, choice.memory_limit, costs_of(name))
        for name in choice.artifacts
    }
    texts = calibration_texts(checkpoint, request.calibration)
    place = request.out / f"{checkpoint.name}-{choice.platform.name}-{recipe.name}"
    return Plan(
        checkpoint.at_context(context_length),
        choice.platform,
        recipe,
        choice.artifacts,
        choice.encodings,
        context_length,
        plans,
        model.parameters,
        texts,
        place,
    )


def choose(spec: Spec, request: Request) -> Choice:
    """What is asked for, as it is for this model. Raises SlmkitError for what does not exist."""
    platform = find_platform(request.target)
    recipe = with_socs(load_recipe(request.recipe), request.socs)
    if spec.moe:
        recipe = recipe.model_copy(update={"parity": recipe.parity.by_median()})
    artifacts = _chosen(platform, request.artifacts)
    if request.socs and CHIPS not in artifacts:
        raise SlmkitError(
            f"--soc is for the artifact {CHIPS}, which this build does not write",
            f"it writes: {', '.join(artifacts)}",
        )
    return Choice(
        platform,
        recipe,
        artifacts,
        encodings_of(spec, recipe, artifacts),
        memory.default_context(spec, recipe, request.context),
        request.memory_limit or platform.memory_limit,
    )


def problems_of(model: Model, choice: Choice, artifact: str) -> list[str]:
    """Why an artifact cannot be written, one sentence each."""
    schemes, options = choice.encoding(artifact).schemes, choice.recipe.options(artifact)
    return find_backend(artifact).problems(model, schemes, options)


def unknown_artifacts(recipe: Recipe) -> list[str]:
    """What a recipe names that no target has, one sentence each."""
    unknown = sorted(set(recipe.artifacts) - known_artifacts())
    return [f"artifacts.{name}: there is no such artifact" for name in unknown]


def refuse(recipe: Recipe, problems: Sequence[str]) -> None:
    """Raise RecipeError with all problems at once, if there are any."""
    if problems:
        raise RecipeError(
            f"recipe {recipe.name}: {'; '.join(problems)}",
            "recipes/README.md explains every key; --artifacts leaves an artifact out",
        )


def encodings_of(spec: Spec, recipe: Recipe, artifacts: Sequence[str]) -> tuple[Encoding, ...]:
    """The artifacts, by what their weights are: the recipe's own rules, or an artifact's."""
    found: list[tuple[Mapping[str, Scheme], list[str]]] = []
    for artifact in artifacts:
        schemes = memory.matrix_schemes(spec, recipe, artifact)
        alike = [names for known, names in found if known == schemes]
        if alike:
            alike[0].append(artifact)
        else:
            found.append((schemes, [artifact]))
    return tuple(
        Encoding(encoding_name(names, artifacts), tuple(names), schemes) for schemes, names in found
    )


def encoding_name(names: Sequence[str], artifacts: Sequence[str]) -> str:
    """How a report names the encoding that some of a bundle's artifacts hold."""
    return EVERY if len(names) == len(artifacts) else ", ".join(names)


def costs_of(artifact: str) -> memory.Costs:
    """What numbers take in the memory of an artifact's runtime."""
    backend = find_backend(artifact)
    return memory.Costs(artifact, backend.weight_bytes, backend.state_bytes)


def with_socs(recipe: Recipe, socs: tuple[str, ...]) -> Recipe:
    """The recipe, compiled for other chips."""
    if not socs:
        return recipe
    said = recipe.artifacts.get(CHIPS, ArtifactOptions())
    options = ArtifactOptions(weights=said.weights, **{**said.options, "soc": list(socs)})
    return recipe.model_copy(update={"artifacts": {**recipe.artifacts, CHIPS: options}})


def codes_of(
    checkpoint: Checkpoint, schemes: Mapping[str, Scheme], cache: Cache, progress: Progress
) -> CodesFile:
    """The checkpoint's codes under a recipe: out of the cache, or quantized now."""
    weights = record(checkpoint.spec).weights
    facts = {name: scheme.model_dump() for name, scheme in schemes.items()}
    read_as = checkpoint.spec.model_type
    key = key_of([checkpoint.shards.fingerprint, read_as, facts, QUANT_VERSION])
    numbers = sum(weight.size for weight in weights.values() if len(weight.shape) == 2)
    progress.stage("quantize", numbers)
    entry = cache.find("codes", key)
    if entry is None:
        with cache.making("codes", key) as making:
            quantize(
                checkpoint.shards,
                weights,
                schemes,
                making / "codes.safetensors",
                key,
                progress.advance,
            )
        entry = cache.find("codes", key)
    else:
        progress.advance(numbers)
    if entry is None:
        raise SlmkitError(f"the cache {cache.folder} lost an entry", "is its disk full?")
    return CodesFile(entry / "codes.safetensors")


def _chosen(platform: Platform, asked: tuple[str, ...]) -> tuple[str, ...]:
    for name in asked:
        if name not in platform.artifacts:
            raise SlmkitError(
                f"the target {platform.name} has no artifact {name!r}",
                f"it has: {', '.join(platform.artifacts)}",
            )
    return asked or platform.artifacts
