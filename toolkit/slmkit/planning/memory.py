"""Will it fit? Memory of a model under a recipe at a context length, from its spec alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from slmkit.errors import SlmkitError
from slmkit.interpreters.recorder import Recorder, State, record
from slmkit.models.spec import Spec
from slmkit.quant.quantize import stored_bytes
from slmkit.recipe.recipe import Recipe, load_recipe, shipped_names
from slmkit.recipe.scheme import Scheme

FLOAT = 4  # bytes of one number of the KV cache and of activations
SMALLEST_CONTEXT = 128
KV = "kv"  # what the numbers of the KV cache are called beside the kinds of states
WeightBytes = Callable[[int, int, Scheme], int]  # (rows, width, scheme) -> bytes
StateBytes = Callable[[str, Sequence[State]], int]  # (kind, the model's states) -> of a number


@dataclass(frozen=True)
class Costs:
    """What numbers take in the memory of an artifact's runtime."""

    artifact: str
    weight_bytes: WeightBytes
    state_bytes: StateBytes


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that an app needs while it answers."""

    context_length: int
    weights: int
    kv_cache: int
    working: int  # logits of one prefill chunk, and the widest op's inputs and outputs

    @property
    def total(self) -> int:
        """All three."""
        return self.weights + self.kv_cache + self.working


def plan(spec: Spec, recipe: Recipe, context_length: int, costs: Costs | None = None) -> MemoryPlan:
    """The memory of a model in a runtime; without one, its weights as the codes take them."""
    recorded = record(spec)
    chunk = min(recipe.prefill_chunk, context_length)
    return MemoryPlan(
        context_length,
        _weights(recorded, recipe, spec, costs),
        _kept(recorded, context_length, costs),
        (recorded.widest + spec.vocabulary) * chunk * FLOAT,
    )


def state_values(recorded: Recorder, tokens: int) -> int:
    """How many numbers the KV cache of so many tokens and all states hold."""
    return recorded.cached * tokens + sum(math.prod(state.shape) for state in recorded.states)


def _kept(recorded: Recorder, tokens: int, costs: Costs | None) -> int:
    if costs is None:
        return state_values(recorded, tokens) * FLOAT
    numbers = [(KV, recorded.cached * tokens)]
    numbers += [(state.kind, math.prod(state.shape)) for state in recorded.states]
    return sum(count * costs.state_bytes(kind, recorded.states) for kind, count in numbers if count)


def default_context(spec: Spec, recipe: Recipe, asked: int | None) -> int:
    """The context to build for. Raises SlmkitError for one that the model was not made for."""
    if asked is None:
        return min(recipe.context_length, spec.trained_context)
    if not 16 <= asked <= spec.trained_context:
        raise SlmkitError(
            f"--context {asked} is outside of what the model was made for",
            f"choose 16 to {spec.trained_context} (max_position_embeddings)",
        )
    return asked


def check(spec: Spec, recipe: Recipe, context_length: int, limit: int, costs: Costs) -> MemoryPlan:
    """The plan, if it fits. Raises SlmkitError with its three numbers and what would fit."""
    planned = plan(spec, recipe, context_length, costs)
    error = refusal(spec, recipe, planned, limit, costs)
    if error:
        raise error
    return planned


def refusal(
    spec: Spec, recipe: Recipe, planned: MemoryPlan, limit: int, costs: Costs
) -> SlmkitError | None:
    """Why a plan does not fit, and what would; None if it fits."""
    if planned.total <= limit:
        return None
    return SlmkitError(
        f"the model needs {gigabytes(planned.total)} with recipe {recipe.name} at context "
        f"{planned.context_length}: weights {gigabytes(planned.weights)}, KV cache "
        f"{gigabytes(planned.kv_cache)}, working memory {gigabytes(planned.working)}; "
        f"the limit is {gigabytes(limit)}",
        _what_fits(spec, recipe, planned.context_length, limit, costs),
    )


def gigabytes(size: int) -> str:
    """1234567890 -> "1.23 GB"; small sizes in MB or kB."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}"
    return f"{size / 1000:.1f} kB"


def _what_fits(spec: Spec, recipe: Recipe, context: int, limit: int, costs: Costs) -> str:
    """Recipes at this context, else the longest context of each; the first of those that give
    this artifact as many bytes of weights."""
    choices = [recipe, *(load_recipe(name) for name in shipped_names() if name != recipe.name)]
    differing: dict[int, Recipe] = {}
    for choice in choices:
        differing.setdefault(plan(spec, choice, context, costs).weights, choice)
    fitting = []
    for choice in differing.values():
        longest = _longest_context(spec, choice, context, limit, costs)
        if longest is not None:
            fitting.append(f"--recipe {choice.name} --context {longest}")
    if not fitting:
        return "nothing shipped fits; take a smaller model, or raise --memory-limit"
    return f"would fit: {'; '.join(fitting)}; or raise --memory-limit"


def _longest_context(
    spec: Spec, recipe: Recipe, context: int, limit: int, costs: Costs
) -> int | None:
    while context >= SMALLEST_CONTEXT:
        if plan(spec, recipe, context, costs).total <= limit:
            return context
        context //= 2
    return None


def _weights(recorded: Recorder, recipe: Recipe, spec: Spec, costs: Costs | None) -> int:
    total = 0
    for weight in recorded.weights.values():
        if len(weight.shape) == 1:
            total += weight.size * FLOAT
            continue
        scheme = recipe.scheme(weight.name, spec.layers, costs.artifact if costs else None)
        if costs is None:
            total += stored_bytes(weight, scheme)
        else:
            total += costs.weight_bytes(weight.shape[0], weight.shape[1], scheme)
    return total


def matrix_schemes(spec: Spec, recipe: Recipe, artifact: str | None = None) -> Mapping[str, Scheme]:
    """The scheme of every matrix that the architecture names, in an artifact."""
    names = [weight.name for weight in record(spec).weights.values() if len(weight.shape) == 2]
    return recipe.schemes(names, spec.layers, artifact)
