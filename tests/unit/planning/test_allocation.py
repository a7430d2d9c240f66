"""Budgets of bits: spent on names first, then on what costs most, never beyond."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.errors import RecipeError
from slmkit.planning.allocation import allocated, average_bits, coarse
from slmkit.planning.memory import matrix_schemes
from slmkit.recipe.recipe import load_recipe

MODEL = open_checkpoint(SAMPLE_MODEL).model
LINEARS = list(coarse(MODEL, load_recipe("int4-compact")))


def recipe_of(budget):
    return load_recipe("int4-compact").model_copy(update={"bits_budget": budget})


def fine(recipe, artifact=None):
    schemes = matrix_schemes(MODEL, recipe, artifact)
    return {name for name in LINEARS if schemes[name].bits != 4}


@given(
    st.floats(4.2, 8),
    st.lists(st.floats(0, 1), min_size=len(LINEARS), max_size=len(LINEARS)),
)
def test_a_budget_is_kept_and_spent(budget, costs):
    found = allocated(recipe_of(budget), MODEL, dict(zip(LINEARS, costs, strict=True)))
    assert found.bits_budget is None
    assert average_bits(MODEL, found, LINEARS) <= budget + 1e-9
    sizes = {name: MODEL.shapes[name][0] * MODEL.shapes[name][1] for name in LINEARS}
    left = (budget - average_bits(MODEL, found, LINEARS)) * sum(sizes.values())
    assert all(4 * sizes[name] > left - 1e-6 for name in set(LINEARS) - fine(found))


def test_names_come_first_then_what_costs_most_per_weight():
    costs = dict.fromkeys(LINEARS, 0.0)
    costs["model.layers.1.mlp.down_proj"] = 1.0
    values = [name for name in LINEARS if name.endswith(("v_proj", "o_proj"))]
    bare = average_bits(MODEL, recipe_of(None), LINEARS)
    assert bare == 4
    size = MODEL.shapes["model.layers.1.mlp.down_proj"]
    weights = sum(MODEL.shapes[name][0] * MODEL.shapes[name][1] for name in LINEARS)
    named = sum(MODEL.shapes[name][0] * MODEL.shapes[name][1] for name in values)
    budget = 4 + 4 * (named + size[0] * size[1]) / weights
    found = allocated(recipe_of(budget + 1e-9), MODEL, costs)
    assert fine(found) == {*values, "model.layers.1.mlp.down_proj"}


def test_every_artifact_has_the_same_choice_and_palettes_six_bits():
    found = allocated(recipe_of(4.6), MODEL, dict.fromkeys(LINEARS, 1.0))
    assert fine(found) == fine(found, "coreml") == fine(found, "ort") != set()
    assert {matrix_schemes(MODEL, found, "coreml")[name].bits for name in fine(found)} == {6}
    schemes = matrix_schemes(MODEL, found)
    assert {(schemes[name].bits, schemes[name].method) for name in fine(found)} == {(8, "gptq")}


def test_an_estimate_spends_as_many_bits():
    measured = allocated(recipe_of(5), MODEL, dict.fromkeys(LINEARS, 1.0))
    estimate = allocated(recipe_of(5), MODEL)
    assert average_bits(MODEL, estimate, LINEARS) == pytest.approx(
        average_bits(MODEL, measured, LINEARS), abs=0.2
    )


@pytest.mark.parametrize("budget", [3.5, 4, 4.001])
def test_a_budget_that_buys_nothing_is_refused(budget):
    with pytest.raises(RecipeError, match=r"leaves nothing to choose") as caught:
        allocated(recipe_of(budget), MODEL)
    assert "have 4.00 bits per weight" in caught.value.hint


def test_a_recipe_without_a_budget_stays_as_it_is():
    recipe = load_recipe("int4-compact")
    assert allocated(recipe, MODEL) is recipe
