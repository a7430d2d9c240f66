"""Memory plans: the three numbers, and what would fit instead."""

from __future__ import annotations

import math
import re

import pytest

from phone_shapes import spec_of
from slmkit.errors import SlmkitError
from slmkit.interpreters.recorder import summarize
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from slmkit.planning.memory import (
    default_context,
    gigabytes,
    matrix_schemes,
    memory_refusal,
    plan_memory,
)
from slmkit.planning.plan import costs_of
from slmkit.recipe.recipe import Recipe, load_recipe
from tiny_models import tiny_config

GB = 10**9


def model_of(name):
    return summarize(spec_of(name))


def check(model, recipe, context, limit, costs):
    planned = plan_memory(model, recipe, context, costs)
    refusal = memory_refusal(model, recipe, planned, limit, costs)
    if refusal:
        raise refusal
    return planned


def test_the_kv_cache_is_two_numbers_per_layer_head_and_channel():
    planned = plan_memory(model_of("qwen2.5-0.5b"), load_recipe("int4"), 2048)
    assert planned.kv_cache == 2 * 24 * 2 * 64 * 2048 * 4


@pytest.mark.parametrize(
    ("artifact", "cache", "conv", "scan"),
    [
        ("ort", 4, 4, 4),
        ("hexagon", 2, 2, 4),
        ("coreml", 2, 2, 2),
        ("litert", 4, 4, 4),
        ("mlc", 4, 4, 4),
    ],
)
def test_a_hybrid_keeps_numbers_of_the_types_of_its_artifact(artifact, cache, conv, scan):
    """Keys and values of one layer, a convolution and a scan of the other."""
    model = summarize(read_spec(Config(tiny_config("granite-hybrid"), "config.json")))
    spec = model.spec
    sizes = dict.fromkeys(("conv", "scan"), 0)
    for state in model.states:
        sizes[state.kind] += math.prod(state.shape)
    kept = 2 * spec.kv_heads * spec.head_width * len(model.attention_layers) * 64
    planned = plan_memory(model, load_recipe("int4"), 64, costs_of(artifact, load_recipe("int4")))
    assert planned.kv_cache == kept * cache + sizes["conv"] * conv + sizes["scan"] * scan


def test_weights_are_what_their_codes_take():
    int4 = plan_memory(model_of("qwen2.5-0.5b"), load_recipe("int4"), 512).weights
    table, linears = 151936 * 896, 494_032_768 - 151936 * 896
    fine = 24 * (896 * 896 + 128 * 896)  # v_proj and o_proj, per channel as the table is
    estimate = (table + fine) * (1 + 2 / 896) + (linears - fine) * (0.5 + 1 / 32)  # g32 two-level
    assert int4 == pytest.approx(estimate, rel=0.01)


def test_a_model_that_fits_gets_its_plan():
    recipe = load_recipe("int4")
    planned = check(model_of("qwen2.5-0.5b"), recipe, 2048, 3 * GB, costs_of("ort", recipe))
    assert planned.total < 3 * GB
    assert planned.total == planned.weights + planned.kv_cache + planned.working


def test_a_runtime_s_cache_of_8_bits_is_planned():
    model, shipped = model_of("qwen2.5-0.5b"), load_recipe("int4")
    sizes = []
    for runtime in ("slmkit", "genai"):
        whole = {**shipped.model_dump(), "artifacts": {"hexagon": {"runtime": runtime}}}
        recipe = Recipe.model_validate(whole)
        sizes.append(plan_memory(model, recipe, 512, costs_of("hexagon", recipe)).kv_cache)
    assert sizes == [2 * model.cached * 512, model.cached * 512]


def test_only_graphs_with_logits_of_a_whole_chunk_need_memory_for_them():
    model, shipped = model_of("qwen2.5-0.5b"), load_recipe("int4")
    whole = {**shipped.model_dump(), "artifacts": {"ort": {"logits": "all"}}}
    of_all = Recipe.model_validate(whole)
    one, *several = (
        plan_memory(model, recipe, 2048, costs_of(name, recipe)).working
        for name, recipe in (("ort", shipped), ("ort", of_all), ("hexagon", shipped))
    )
    more = 4 * model.spec.vocabulary * (shipped.prefill_chunk - 1)
    assert several == [one + more] * 2


def test_a_model_that_does_not_fit_hears_three_numbers_and_what_would():
    model, recipe = model_of("llama-3.2-3b"), load_recipe("int8")
    costs = costs_of("ort", recipe)
    with pytest.raises(SlmkitError) as caught:
        check(model, recipe, 8192, 3 * GB, costs)
    for part in ("weights", "KV cache", "working memory", "the limit is 3.00 GB"):
        assert part in caught.value.message
    offers = re.findall(r"--recipe (\S+) --context (\d+)", caught.value.hint)
    assert offers
    for name, context in offers:
        check(model, load_recipe(name), int(context), 3 * GB, costs)


def test_recipes_that_give_an_artifact_the_same_weights_are_offered_once():
    """int4-coreml-gpu differs from int4 in the artifact coreml alone."""
    model, recipe = model_of("qwen1.5-1.8b"), load_recipe("int4")
    with pytest.raises(SlmkitError) as caught:
        check(model, recipe, 512, int(3.1 * GB), costs_of("litert", recipe))
    assert re.findall(r"--recipe (\S+)", caught.value.hint) == ["int4", "int4-compact"]


def test_when_nothing_fits_the_hint_says_so():
    recipe = load_recipe("int8")
    with pytest.raises(SlmkitError) as caught:
        check(model_of("qwen3-4b"), recipe, 8192, GB, costs_of("ort", recipe))
    assert "nothing shipped fits" in caught.value.hint


@pytest.mark.parametrize(("asked", "given"), [(None, 2048), (512, 512)])
def test_the_context_is_the_recipe_s_unless_asked(asked, given):
    spec = model_of("qwen2.5-0.5b").spec
    assert default_context(spec, load_recipe("int4"), asked) == given


@pytest.mark.parametrize("asked", [0, -5, 15, 40_000])
def test_a_context_that_the_model_was_not_made_for_is_refused(asked):
    with pytest.raises(SlmkitError, match="is outside of what the model was made for"):
        default_context(model_of("qwen2.5-0.5b").spec, load_recipe("int4"), asked)


@pytest.mark.parametrize(
    ("size", "text"), [(1, "0.0 kB"), (2_500_000, "2.50 MB"), (3 * GB, "3.00 GB")]
)
def test_sizes_are_read_easily(size, text):
    assert gigabytes(size) == text


@pytest.mark.parametrize("architecture", ["llama", "qwen2-moe"])
def test_int4_gives_core_ml_s_down_projections_palettes_of_6_bits(architecture):
    model = summarize(read_spec(Config(tiny_config(architecture), "config.json")))
    schemes = matrix_schemes(model, load_recipe("int4"), "coreml")
    down = {each.bits for name, each in schemes.items() if name.endswith(".down_proj")}
    up = {each.bits for name, each in schemes.items() if name.endswith(".up_proj")}
    assert (down, up) == ({6}, {4})
