"""Memory of a model in a runtime, from its recipe and context length alone, and what would fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked_dataclass

from slmkit.errors import RefusedError, UsageError
from slmkit.interpreters.recorder import Model, State
from slmkit.models.spec import Spec
from slmkit.quant.files import stored_bytes
from slmkit.recipe.recipe import Recipe, load_recipe, shipped_names
from slmkit.recipe.scheme import Scheme

FLOAT = 4  # bytes of one number of the KV cache and of activations
SMALLEST_CONTEXT = 128
KV = "kv"  # the kind of the KV cache's numbers, beside the kinds of recurrent states
WeightBytes = Callable[[int, int, Scheme], int]  # (rows, width, scheme) -> bytes
StateBytes = Callable[[str, Sequence[State]], int]  # (kind, the model's states) -> of a number


@dataclass(frozen=True)
class Costs:
    """Bytes of numbers in the memory of an artifact's runtime."""

    artifact: str
    weight_bytes: WeightBytes
    state_bytes: StateBytes
    copies: int  # of a matrix, within its bytes: a token reads one of them
    answers_chunks: bool  # a prompt's chunk computes the logits of all its tokens, not of one


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MemoryPlan:
    """Bytes that an app needs while it answers."""

    context_length: int
    weights: int
    kv_cache: int  # recurrent states included
    working: int  # logits of a prefill chunk, and the widest op's inputs and outputs

    @property
    def total(self) -> int:
        """All three."""
        return self.weights + self.kv_cache + self.working

    @property
    def parts(self) -> dict[str, int]:
        """The three by the words for them."""
        return {
            "weights": self.weights,
            "KV cache": self.kv_cache,
            "working memory": self.working,
        }

    def at(self, tokens: int) -> int:
        """Bytes in all while the cache holds only this many tokens."""
        return self.weights + self.working + self.kv_cache * tokens // self.context_length


def plan_memory(
    model: Model, recipe: Recipe, context_length: int, costs: Costs | None = None
) -> MemoryPlan:
    """The memory of a model in a runtime; without one, its weights as the codes take them."""
    chunk = min(recipe.prefill_chunk, context_length)
    answered = chunk if costs is None or costs.answers_chunks else 1
    return MemoryPlan(
        context_length,
        sum(weight_sizes(model, recipe, costs).values()),
        _state(model, context_length, costs),
        (model.widest * chunk + model.spec.vocabulary * answered) * FLOAT,
    )


def state_values(model: Model, tokens: int) -> int:
    """How many numbers the KV cache of this many tokens and all recurrent states hold."""
    return model.cached * tokens + sum(math.prod(state.shape) for state in model.states)


def default_context(spec: Spec, recipe: Recipe, asked: int | None) -> int:
    """The context to build for. Raises UsageError for one that the model was not made for."""
    if asked is None:
        return min(recipe.context_length, spec.trained_context)
    if not 16 <= asked <= spec.trained_context:
        raise UsageError(
            f"--context {asked} is outside of what the model was made for",
            f"choose 16 to {spec.trained_context} (max_position_embeddings)",
        )
    return asked


def memory_refusal(
    model: Model, recipe: Recipe, planned: MemoryPlan, limit: int, costs: Costs
) -> RefusedError | None:
    """Why a plan does not fit into ``limit`` bytes, and what would; None if it fits."""
    if planned.total <= limit:
        return None
    return RefusedError(
        f"the model needs {gigabytes(planned.total)} with recipe {recipe.name} at context "
        f"{planned.context_length}: weights {gigabytes(planned.weights)}, KV cache "
        f"{gigabytes(planned.kv_cache)}, working memory {gigabytes(planned.working)}; "
        f"the limit is {gigabytes(limit)}",
        _what_fits(model, recipe, planned.context_length, limit, costs),
    )


def gigabytes(size: int) -> str:
    """1234567890 -> "1.23 GB"; small sizes in MB or kB."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}"
    return f"{size / 1000:.1f} kB"


def matrix_schemes(
    model: Model, recipe: Recipe, artifact: str | None = None
) -> Mapping[str, Scheme]:
    """The scheme of every matrix that the architecture names, in an artifact."""
    return recipe.schemes(model.matrices, model.spec.layers, artifact)


def _what_fits(model: Model, recipe: Recipe, context: int, limit: int, costs: Costs) -> str:
    """Recipes at this context, else the longest context of each."""
    fitting = []
    for choice in _differing_recipes(model, recipe, context, costs):
        longest = _longest_context(model, choice, context, limit, costs)
        if longest is not None:
            fitting.append(f"--recipe {choice.name} --context {longest}")
    if not fitting:
        return "nothing shipped fits; take a smaller model, or raise --memory-limit"
    return f"would fit: {'; '.join(fitting)}; or raise --memory-limit"


def _differing_recipes(
    model: Model, recipe: Recipe, context: int, costs: Costs
) -> Iterator[Recipe]:
    """The recipe and the shipped ones: of those that give this artifact as many bytes of weights,
    the first."""
    shipped = (load_recipe(name) for name in shipped_names() if name != recipe.name)
    seen = set()
    for choice in (recipe, *shipped):
        weights = plan_memory(model, choice, context, costs).weights
        if weights not in seen:
            seen.add(weights)
            yield choice


def _longest_context(
    model: Model, recipe: Recipe, context: int, limit: int, costs: Costs
) -> int | None:
    while context >= SMALLEST_CONTEXT:
        if plan_memory(model, recipe, context, costs).total <= limit:
            return context
        context //= 2
    return None


def _state(model: Model, tokens: int, costs: Costs | None) -> int:
    if costs is None:
        return state_values(model, tokens) * FLOAT
    numbers = [(KV, model.cached * tokens)]
    numbers += [(state.kind, math.prod(state.shape)) for state in model.states]
    return sum(count * costs.state_bytes(kind, model.states) for kind, count in numbers if count)


def weight_sizes(model: Model, recipe: Recipe, costs: Costs | None = None) -> dict[str, int]:
    """Bytes of every weight in a runtime, by tensor; without one, as the codes take them."""
    artifact = costs.artifact if costs else None
    sizes = {}
    for tensor, weight in model.weights.items():
        if len(weight.shape) == 1:
            sizes[tensor] = weight.size * FLOAT
            continue
        scheme = recipe.scheme(weight.name, model.spec.layers, artifact)
        rows, width = weight.shape
        sizes[tensor] = (
            costs.weight_bytes(rows, width, scheme) if costs else stored_bytes(weight, scheme)
        )
    return sizes
