"""Allocation: which matrices get 8 bits under a budget of bits per weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slmkit.errors import RecipeError
from slmkit.interpreters.recorder import Model
from slmkit.planning.memory import matrix_schemes
from slmkit.recipe.recipe import ArtifactOptions, Recipe, Rule
from slmkit.recipe.scheme import Scheme

# Names whose 8 bits paid most wherever it was measured, in this order.
FIRST = (".v_proj", ".o_proj")
FINE = 8  # bits
FINE_PALETTE = 6  # bits: Core ML's largest palette here
Costs = Mapping[str, float]  # KL in nats that the few bits of one matrix cost, by name


def coarse(model: Model, recipe: Recipe) -> dict[str, int]:
    """Bits of the matrices that a budget is about: those of linears with fewer than 8 bits, by the
    rules for all artifacts."""
    return {
        name: scheme.bits
        for name, scheme in matrix_schemes(model, recipe).items()
        if scheme.bits is not None
        and scheme.bits < FINE
        and name in model.multiplied - model.looked_up
    }


def named_first(model: Model, recipe: Recipe) -> tuple[list[str], bool]:
    """The matrices that get 8 bits by their names, and whether bits are left for others."""
    bits = coarse(model, recipe)
    left, chosen = _room(model, recipe, bits), list[str]()
    for ending in FIRST:
        names = [name for name in bits if name.endswith(ending)]
        cost = sum(_cost(model, name, bits) for name in names)
        if names and cost <= left:
            chosen += names
            left -= cost
    others = [_cost(model, name, bits) for name in bits if name not in chosen]
    return chosen, any(cost <= left for cost in others)


def allocated(recipe: Recipe, model: Model, costs: Costs | None = None) -> Recipe:
    """A recipe whose budget has become rules: one choice for all artifacts.

    First by name, all layers of a kind or none; then by ``costs``, the KL per weight. Without
    costs, for an estimate: layer by layer, which takes as many bits. Raises RecipeError for a
    budget that buys nothing.
    """
    if recipe.bits_budget is None:
        return recipe
    bits = coarse(model, recipe)
    chosen, _ = named_first(model, recipe)
    left = _room(model, recipe, bits) - sum(_cost(model, name, bits) for name in chosen)
    others = [name for name in bits if name not in chosen]
    if costs is not None:
        others.sort(key=lambda name: -costs[name] / _size(model, name))
    for name in others:
        if _cost(model, name, bits) <= left:
            chosen.append(name)
            left -= _cost(model, name, bits)
    return _with_rules(recipe, model, [name for name in bits if name in chosen])


def average_bits(model: Model, recipe: Recipe, of: Sequence[str]) -> float:
    """Code bits per weight of some matrices, by the rules for all artifacts."""
    schemes = matrix_schemes(model, recipe)
    total = sum(_size(model, name) * (schemes[name].bits or 16) for name in of)
    return total / sum(_size(model, name) for name in of)


def _room(model: Model, recipe: Recipe, bits: Mapping[str, int]) -> float:
    """Bits that may be added to those of the recipe's schemes."""
    weights = sum(_size(model, name) for name in bits)
    spent = sum(_size(model, name) * each for name, each in bits.items())
    room = (recipe.bits_budget or 0) * weights - spent
    if room < min((_cost(model, name, bits) for name in bits), default=0) or not bits:
        least = spent / weights if weights else FINE
        raise RecipeError(
            f"recipe {recipe.name}: bits_budget: {recipe.bits_budget:g} leaves nothing to choose",
            f"the recipe's linears have {least:.2f} bits per weight without it: give more, up to "
            f"{FINE}, or leave it out",
        )
    return room


def _cost(model: Model, name: str, bits: Mapping[str, int]) -> int:
    return _size(model, name) * (FINE - bits[name])


def _size(model: Model, name: str) -> int:
    rows, width = model.shapes[name]
    return rows * width


def _with_rules(recipe: Recipe, model: Model, names: Sequence[str]) -> Recipe:
    """The recipe with fine schemes for some matrices, in every artifact."""
    layers = model.spec.layers

    def rule(artifact: str | None) -> Rule:
        old = recipe.scheme(names[0], layers, artifact)
        if old.encoding == "palette":
            new = old.model_copy(update={"bits": FINE_PALETTE})
        else:
            new = Scheme(encoding="per-channel", bits=FINE, method=old.method)
        return Rule(match=tuple(names), scheme=new)

    artifacts = {
        name: ArtifactOptions(weights=(*each.weights, rule(name)), **each.options)
        for name, each in recipe.artifacts.items()
        if each.weights
    }
    return recipe.model_copy(
        update={
            "bits_budget": None,
            "weights": (*recipe.weights, rule(None)),
            "artifacts": {**recipe.artifacts, **artifacts},
        }
    )
