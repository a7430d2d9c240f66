"""Decide before anything is written: artifacts, encodings, bounds, memory, the bundle's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from slmkit.backend.artifact import PROOF
from slmkit.backend.declaration import EVERY_ERROR
from slmkit.backend.registry import (
    artifacts_of,
    declaration_of,
    declarations,
    error_kinds,
    find_backend,
    find_target,
    require_packages,
)
from slmkit.backend.targets import Target
from slmkit.checkpoint.folder import Checkpoint, open_checkpoint
from slmkit.checkpoint.formats.gguf.unpack import ENDING
from slmkit.errors import RecipeError, RefusedError, UsageError
from slmkit.evaluation.held_out import held_out_text
from slmkit.evaluation.text import EvaluationText
from slmkit.interpreters.recorder import Model
from slmkit.planning.allocation import allocated
from slmkit.planning.calibration import calibration_texts
from slmkit.planning.imports import ImportRow, import_rows, with_imports
from slmkit.planning.memory import (
    Costs,
    MemoryPlan,
    default_context,
    gigabytes,
    matrix_schemes,
    memory_refusal,
    plan_memory,
)
from slmkit.recipe.bounds import Bound
from slmkit.recipe.recipe import Recipe, load_recipe
from slmkit.recipe.scheme import Scheme
from slmkit.system.jobs import Limits

EVERY = "all"  # the name of an encoding in reports, if all artifacts share it
LEAVE_OUT = "recipes/README.md explains every key; --artifacts leaves an artifact out"


@dataclass(frozen=True)
class Request:
    """A build as the user asked for it."""

    model: Path
    target: str
    recipe: str | Recipe
    out: Path = Path("dist")
    context: int | None = None
    memory_limit: int | None = None  # bytes
    artifacts: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by artifact
    calibration: Path | None = None  # calibration text; None: the checkpoint's own, or ours
    chat_template: str | None = None  # the name of one of several; None: the default one
    adapters: tuple[Path, ...] = ()  # folders of LoRA adapters, merged in this order
    force: bool = False
    cache: Path | None = None  # None: no cache
    requantize: bool = False  # codes that the checkpoint brings are not taken
    limits: Limits = field(default_factory=Limits)  # of this computer, for work side by side
    keep_failed: bool = False  # a bundle that breaks a bound is kept, under another name


@dataclass(frozen=True, eq=False)
class Encoding:
    """One encoding of all weights, made once, and the artifacts that hold it."""

    name: str  # for reports: EVERY, or the artifacts' names
    artifacts: tuple[str, ...]
    schemes: Mapping[str, Scheme]

    @property
    def golden(self) -> str:
        """The file of the reference's answers on these codes, in the bundle."""
        return f"{PROOF}/golden-{'-'.join(self.artifacts)}.safetensors"


@dataclass(frozen=True)
class Choice:
    """All that a config.json, a request and its recipe decide."""

    model: Model
    target: Target
    recipe: Recipe  # with the bounds that hold
    artifacts: tuple[str, ...]
    encodings: tuple[Encoding, ...]
    context_length: int
    memory_limit: int  # bytes

    def encoding(self, artifact: str) -> Encoding:
        """The encoding that an artifact holds."""
        return next(each for each in self.encodings if artifact in each.artifacts)

    @property
    def schemes(self) -> dict[str, Mapping[str, Scheme]]:
        """Schemes by artifact."""
        return {name: self.encoding(name).schemes for name in self.artifacts}

    def problems(self, artifact: str) -> list[str]:
        """Why an artifact cannot be written, one sentence each."""
        schemes, options = self.encoding(artifact).schemes, self.recipe.options(artifact)
        return find_backend(artifact).problems(self.model, schemes, options)

    def memory(self, artifact: str) -> tuple[MemoryPlan, RefusedError | None]:
        """The memory of an app with an artifact, and why it does not fit, if it does not."""
        costs = costs_of(artifact, self.recipe)
        planned = plan_memory(self.model, self.recipe, self.context_length, costs)
        return planned, memory_refusal(self.model, self.recipe, planned, self.memory_limit, costs)


@dataclass(frozen=True)
class Plan:
    """A choice for a checkpoint, with everything else that is decided before work begins."""

    choice: Choice
    checkpoint: Checkpoint
    memory: Mapping[str, MemoryPlan]  # by artifact
    calibration: tuple[tuple[int, ...], ...]  # texts as token ids
    held_out: EvaluationText  # that codes and artifacts are measured on
    place: Path
    chat_template: str | None = None  # the name of one of several
    imports: tuple[ImportRow, ...] = ()  # of a checkpoint that brings codes

    def with_recipe(self, recipe: Recipe) -> Plan:
        """The plan with the recipe's bounds changed."""
        return replace(self, choice=replace(self.choice, recipe=recipe))


def make_plan(request: Request) -> Plan:
    """Check everything that can be checked before work begins. Raises SlmkitError."""
    named = {"a GGUF file": ("gguf", "gguf")} if request.model.suffix == ENDING else {}
    require_packages(_chosen(find_target(request.target), request.artifacts), named)
    opened = open_checkpoint(request.model, request.chat_template, request.adapters)
    checkpoint = opened.at_build_day()
    imports = {} if request.requantize else checkpoint.shards.imports
    choice = choose(checkpoint.model, request, imports)
    problems = [why for name in choice.artifacts for why in choice.problems(name)]
    if problems:
        raise RefusedError(f"recipe {choice.recipe.name}: {'; '.join(problems)}", LEAVE_OUT)
    memory = {}
    for name in choice.artifacts:
        memory[name], refusal = choice.memory(name)
        if refusal:
            raise refusal
    texts = calibration_texts(checkpoint, request.calibration)
    name = f"{checkpoint.name}-{choice.target.name}-{choice.recipe.name}"
    held_out = held_out_text(checkpoint, texts, choice.model.parameters, choice.context_length)
    at_context = checkpoint.at_context(choice.context_length)
    place = request.out / name
    stored = checkpoint.shards.formats
    rounded = checkpoint.shards.rounded if imports else ()
    rows = import_rows(choice.model, stored, imports, choice.schemes, rounded)
    template = request.chat_template
    return Plan(choice, at_context, memory, texts, held_out, place, template, rows)


def choose(model: Model, request: Request, imports: Mapping[str, Scheme] | None = None) -> Choice:
    """Resolve a request for a model. Raises SlmkitError for what does not exist.

    ``imports``: schemes of the codes that the checkpoint brings, by matrix name.
    """
    target = find_target(request.target)
    if request.memory_limit is not None and request.memory_limit < 1:
        raise UsageError(
            f"a memory limit of {request.memory_limit} bytes is none",
            f"--memory-limit is in GB; the target's own is {gigabytes(target.memory_limit)}",
        )
    artifacts = _chosen(target, request.artifacts)
    require_packages(artifacts)
    recipe = request.recipe
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    recipe = allocated(recipe, model)
    recipe = _with_options(recipe, request.options, artifacts)
    _check_names(recipe)
    recipe = with_imports(recipe, model, artifacts, imports or {})
    recipe = recipe.model_copy(update={"parity": bounds_of(recipe, artifacts, model)})
    context_length = default_context(model.spec, recipe, request.context)
    return Choice(
        model.at_context(context_length),
        target,
        recipe,
        artifacts,
        encodings_of(model, recipe, artifacts),
        context_length,
        target.memory_limit if request.memory_limit is None else request.memory_limit,
    )


def bounds_of(recipe: Recipe, artifacts: Sequence[str], model: Model) -> dict[str, Bound]:
    """The bound of each error kind that the artifacts may show: the recipe's, or its default."""
    found = {}
    for name, kind in error_kinds(artifacts).items():
        default = Bound(**kind.bound)
        bound = recipe.parity.get(name, default)
        if bound == Bound() != default:
            raise RecipeError(
                f"recipe {recipe.name}: parity.{name} has no limit: nothing would be proved",
                f"give it one, or leave the key out: its default is {_limits(default)}",
            )
        by_median = model.spec.moe is not None and kind.experts_by_median
        found[name] = bound.by_median() if by_median else bound
    return found


def encodings_of(model: Model, recipe: Recipe, artifacts: Sequence[str]) -> tuple[Encoding, ...]:
    """The artifacts, grouped by their weights' schemes: the recipe's rules, or an artifact's."""
    found: list[tuple[Mapping[str, Scheme], list[str]]] = []
    for artifact in artifacts:
        schemes = matrix_schemes(model, recipe, artifact)
        alike = [names for known, names in found if known == schemes]
        if alike:
            alike[0].append(artifact)
        else:
            found.append((schemes, [artifact]))
    return tuple(
        Encoding(encoding_name(names, artifacts), tuple(names), schemes) for schemes, names in found
    )


def encoding_name(names: Sequence[str], artifacts: Sequence[str]) -> str:
    """The name in reports of the encoding that some of a bundle's artifacts hold."""
    return EVERY if len(names) == len(artifacts) else ", ".join(names)


def costs_of(artifact: str, recipe: Recipe) -> Costs:
    """Bytes of numbers in the memory of an artifact's runtime."""
    backend, declared = find_backend(artifact), declaration_of(artifact)
    options = recipe.options(artifact)
    return Costs(
        artifact,
        backend.weight_bytes,
        lambda kind, states: backend.state_bytes(kind, states, options),
        declared.copies,
        backend.answers_chunks(options),
    )


def _chosen(target: Target, asked: tuple[str, ...]) -> tuple[str, ...]:
    known = artifacts_of(target)
    for name in asked:
        if asked.count(name) > 1:
            raise UsageError(f"the artifact {name} is named twice", "name each artifact once")
        if name not in known:
            raise UsageError(
                f"the target {target.name} has no artifact {name!r}", f"it has: {', '.join(known)}"
            )
    return asked or known


def _limits(bound: Bound) -> str:
    values = bound.model_dump(exclude_none=True)
    return ", ".join(f"{name} {value:g}" for name, value in values.items())


def _with_options(
    recipe: Recipe, options: Mapping[str, Mapping[str, Any]], artifacts: Sequence[str]
) -> Recipe:
    """The recipe with the options of a request."""
    for artifact, values in options.items():
        if artifact not in artifacts:
            keys = ", ".join(f"{artifact}.{key}" for key in values)
            raise UsageError(
                f"{keys} is for the artifact {artifact}, which this build does not write",
                f"it writes: {', '.join(artifacts)}",
            )
        recipe = recipe.with_options(artifact, values)
    return recipe


def _check_names(recipe: Recipe) -> None:
    """Raise RecipeError for artifacts and error kinds that no backend declares."""
    known = declarations()
    errors = {*EVERY_ERROR, *error_kinds(known)}
    wrong = [
        f"artifacts.{name}: there is no such artifact"
        for name in sorted(set(recipe.artifacts) - set(known))
    ]
    wrong += [
        f"parity.{name}: no artifact has such an error"
        for name in sorted(set(recipe.parity) - errors)
    ]
    if wrong:
        raise RecipeError(
            f"recipe {recipe.name}: {'; '.join(wrong)}",
            f"artifacts: {', '.join(known)}; errors: {', '.join(sorted(errors))}",
        )
