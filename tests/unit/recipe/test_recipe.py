"""Recipes: the shipped ones parse, every mistake is named by its key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from slmkit.errors import RecipeError
from slmkit.recipe.recipe import (
    SHIPPED,
    Recipe,
    Rule,
    load_recipe,
    parse_recipe,
    recipe_schema,
    shipped_names,
)
from slmkit.recipe.scheme import Scheme

ROOT = Path(__file__).resolve().parents[3]
GOOD = (SHIPPED / "int4.yaml").read_text(encoding="utf-8")
NAMES = [
    "model.embed_tokens",
    *(f"model.layers.{layer}.mlp.{part}_proj" for layer in range(3) for part in ("up", "down")),
]


def changed(**changes):
    return yaml.safe_dump({**yaml.safe_load(GOOD), **changes})


def with_rules(*rules):
    return parse_recipe(changed(weights=list(rules)), "mine.yaml")


def rule(match, layers=None, **scheme):
    return {"match": match, "scheme": scheme} | ({"layers": layers} if layers else {})


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_recipes_parse_under_their_name(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.scheme("model.layers.0.mlp.up_proj", 3)


def test_the_default_is_two_level_int4_with_an_8_bit_embedding():
    recipe = load_recipe("int4")
    assert str(recipe.scheme("model.layers.0.mlp.up_proj", 3)) == "int4 g32 two-level"
    assert recipe.scheme("model.embed_tokens", 3).bits == 8
    assert recipe.scheme("lm_head", 3).bits == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (changed(speed=3), "speed: unknown key"),
        (changed(context_length="many"), "context_length: "),
        (changed(context_length=True), "context_length: "),
        (changed(context_length=3), "context_length: "),
        (changed(prefill_chunk=0), "prefill_chunk: "),
        (changed(name="../../etc"), "name: "),
        (changed(weights=[]), "weights: "),
        (changed(weights=[{"match": ["*"]}]), "weights[0].scheme: Field required"),
        (changed(weights=[rule(["*"], encoding="float16", bits=4)]), "weights[0].scheme: bits"),
        (changed(weights=[rule(["*"], encoding="per-channel")]), "weights[0].scheme: bits"),
        (changed(weights=[rule(["*"], encoding="group-wise", bits=4)]), "scheme: group_size"),
        (
            changed(weights=[rule(["*"], encoding="group-wise", bits=5, group_size=32)]),
            "weights[0].scheme.bits: ",
        ),
        (
            changed(weights=[rule(["*"], encoding="group-wise", bits=4, group_size=48)]),
            "weights[0].scheme.group_size: ",
        ),
        (
            changed(
                weights=[
                    rule(["*"], encoding="per-channel", bits=4, symmetric=False, scales="two-level")
                ]
            ),
            "weights[0].scheme: scales: two-level needs",
        ),
        (changed(activations="float32"), "activations: unknown key"),
        (changed(parity={"lowering": 3}), "parity.lowering: "),
        (
            changed(parity={"lowering": {"snr": 3}, "shipped": {}, "quantization": {}}),
            "parity.lowering.snr: unknown key",
        ),
        (changed(artifacts={"ort": 4}), "artifacts.ort: "),
        (changed(parity={"lowering": {"snr_db": -999}}), "parity.lowering.snr_db: "),
        (changed(parity={"lowering": {"snr_db": float("nan")}}), "parity.lowering.snr_db: "),
        (changed(parity={"lowering": {"max_kl": 999}}), "parity.lowering.max_kl: "),
        (changed(parity={"lowering": {"top1": 0}}), "parity.lowering.top1: "),
        (changed(prefill_chunk=999_999_999), "prefill_chunk: "),
        (changed(context_length=10**12), "context_length: "),
        (GOOD + "\n? [a, b]\n: c\n", "a key is a list or a table"),
        (GOOD + "\n? {a: b}\n: c\n", "a key is a list or a table"),
        (GOOD + "\n1: c\n", "1"),
        (GOOD + "\nname: twice\n", "'name' occurs twice"),
        ("a: [", "is not YAML"),
        ("- a\n- b", "is not a table"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
        ("", "is not a table"),
    ],
)
def test_a_mistake_is_named_by_its_key(text, said):
    with pytest.raises(RecipeError, match=re.escape(said)) as caught:
        parse_recipe(text, "mine.yaml")
    assert "mine.yaml" in caught.value.message
    assert "recipes/README.md" in caught.value.hint


def test_several_mistakes_are_all_named():
    with pytest.raises(RecipeError) as caught:
        parse_recipe(changed(speed=3, context_length=0, summary=None), "mine.yaml")
    assert all(key in caught.value.message for key in ("speed", "context_length", "summary"))


HALF = {"encoding": "float16"}


def test_the_last_rule_that_covers_a_weight_decides():
    recipe = with_rules(rule(["*"], **HALF), rule(["*.down_proj"], encoding="per-channel", bits=8))
    assert recipe.scheme("model.layers.1.mlp.down_proj", 3).bits == 8
    assert recipe.scheme("model.layers.1.mlp.up_proj", 3).bits is None


def test_first_and_last_layers_are_chosen_by_number():
    recipe = with_rules(
        rule(["*"], **HALF), rule(["*"], layers=[0, -1], encoding="per-channel", bits=8)
    )
    bits = [recipe.scheme(f"model.layers.{layer}.mlp.up_proj", 3).bits for layer in range(3)]
    assert bits == [8, None, 8]
    assert recipe.scheme("model.embed_tokens", 3).bits is None


def test_a_rule_that_covers_nothing_is_a_mistake():
    recipe = with_rules(rule(["*"], **HALF), rule(["*.dwon_proj"], **HALF))
    with pytest.raises(RecipeError, match=r"weights\[1\].match: \*.dwon_proj covers no weight"):
        recipe.schemes(NAMES, 3)


def test_a_weight_without_a_rule_is_a_mistake():
    with pytest.raises(RecipeError, match=r"no rule covers model\.embed_tokens"):
        with_rules(rule(["*_proj"], **HALF)).schemes(NAMES, 3)


@pytest.mark.parametrize("layer", [3, -4])
def test_a_layer_that_the_model_does_not_have_is_a_mistake(layer):
    recipe = with_rules(rule(["*"], **HALF), rule(["*"], layers=[layer], **HALF))
    with pytest.raises(RecipeError, match=f"the model has no layer {layer}"):
        recipe.schemes(NAMES, 3)


def test_a_recipe_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_recipe("int4").context_length = 1


def test_an_unknown_name_lists_the_shipped():
    with pytest.raises(RecipeError, match="no recipe 'int3'") as caught:
        load_recipe("int3")
    assert "float16, int4" in caught.value.hint


@given(st.text())
def test_any_text_is_a_recipe_or_a_sentence(text):
    try:
        parse_recipe(text, "any.yaml")
    except RecipeError as error:
        assert "\n" not in error.message or "any.yaml" in error.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.sampled_from(sorted(Recipe.model_fields)), JSON)
def test_any_value_of_a_key_is_taken_or_named(key, value):
    try:
        parse_recipe(changed(**{key: value}), "any.yaml")
    except RecipeError as error:
        assert key in error.message


def test_every_key_is_explained():
    text = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    for model in (Recipe, Rule, Scheme):
        for key in model.model_fields:
            assert f"`{key}`" in text, key


def written(folder, name, **values):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, "summary": "mine", **values}), encoding="utf-8")
    return path


def test_a_recipe_extends_a_shipped_one_by_bounds(tmp_path):
    path = written(tmp_path, "mine", extends="int8", parity={"quantization": {"snr_db": 9}})
    base, recipe = load_recipe("int8"), load_recipe(str(path))
    assert recipe.parity["quantization"].snr_db == 9
    assert recipe.parity["lowering"] == base.parity["lowering"]


def test_a_recipe_extends_a_shipped_one_by_rules_and_options(tmp_path):
    own = rule(["*.down_proj"], encoding="per-channel", bits=8)
    options = {"ort": {"accuracy_level": 1}, "mlc": {"gpus": ["adreno"]}}
    path = written(
        tmp_path,
        "mine",
        extends="int4",
        weights=[own],
        artifacts=options,
        context_length=512,
    )
    base, recipe = load_recipe("int4"), load_recipe(str(path))
    assert recipe.weights[:-1] == base.weights and recipe.weights[-1].match == ("*.down_proj",)
    assert recipe.options("ort") == {"accuracy_level": 1}
    assert recipe.options("mlc") == {"gpus": ["adreno"]}
    assert recipe.artifacts["coreml"] == base.artifacts["coreml"]
    assert (recipe.name, recipe.context_length) == ("mine", 512)
    assert recipe.prefill_chunk == base.prefill_chunk


def test_a_recipe_extends_a_file_beside_it(tmp_path):
    written(tmp_path, "base", extends="int8", prefill_chunk=32)
    (tmp_path / "inner").mkdir()
    path = written(tmp_path / "inner", "top", extends="../base.yaml")
    assert load_recipe(str(path)).prefill_chunk == 32
    assert load_recipe(str(path)).weights == load_recipe("int8").weights


@pytest.mark.parametrize(
    ("extends", "said"),
    [
        ("int3", "extends: there is no recipe 'int3'"),
        (4, "extends: expected a recipe's name or path"),
        ("mine.yaml", "extends this recipe itself"),
        ("other.yaml", "extends this recipe itself"),
    ],
)
def test_a_wrong_base_is_one_sentence(tmp_path, extends, said):
    path = written(tmp_path, "mine", extends=extends)
    written(tmp_path, "other", extends="mine.yaml")
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert said in caught.value.message and caught.value.hint


def test_a_mistake_in_an_extending_recipe_is_named_by_its_key(tmp_path):
    with pytest.raises(RecipeError, match="speed: unknown key"):
        load_recipe(str(written(tmp_path, "mine", extends="int4", speed=3)))


def test_without_bounds_a_recipe_gets_the_defaults():
    values = yaml.safe_load((SHIPPED / "int8.yaml").read_text(encoding="utf-8"))
    del values["parity"]
    assert parse_recipe(yaml.safe_dump(values), "mine.yaml").parity == {}


def test_an_override_holds_in_every_artifact():
    recipe = Recipe.load("int4").override("*.down_proj", bits=8)
    name = "model.layers.0.mlp.down_proj"
    for artifact in (None, "ort", "coreml"):
        assert str(recipe.scheme(name, 3, artifact)) == "int8 per-channel"
        assert recipe.scheme("lm_head", 3, artifact) == load_recipe("int4").scheme(
            "lm_head", 3, artifact
        )
    assert recipe.options("ort") == load_recipe("int4").options("ort")
    finer = Recipe.load("int4").override("*.down_proj", group_size=64)
    assert str(finer.scheme(name, 3)) == "int4 g64 two-level"


def test_an_override_that_does_not_fit_is_an_error():
    with pytest.raises(RecipeError, match=r"override .*bits"):
        Recipe.load("int4").override("*", encoding="float16", bits=4)


def test_the_published_schema_is_the_code_s(request):
    path, text = SHIPPED / "recipe.schema.json", json.dumps(recipe_schema(), indent=2) + "\n"
    if request.config.getoption("--write-golden"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


def test_the_published_schema_takes_what_the_code_takes(tmp_path):
    schema = jsonschema.Draft202012Validator(recipe_schema())
    for name in shipped_names():
        schema.validate(yaml.safe_load((SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")))
    schema.validate({"name": "mine", "summary": "mine", "extends": "int4"})
    for wrong in ({"name": "mine", "summary": "mine"}, {**yaml.safe_load(GOOD), "speed": 3}):
        assert not schema.is_valid(wrong)


def test_a_rule_that_covers_nothing_is_an_error_unless_it_is_optional():
    rules: list[dict[str, Any]] = [
        {"match": ["*"], "scheme": {"encoding": "float16"}},
        {"match": ["*.v_proj"], "scheme": {"encoding": "per-channel", "bits": 8}},
    ]
    recipe = Recipe.model_validate({"name": "x", "summary": "x", "weights": rules})
    with pytest.raises(RecipeError, match="covers no weight of this model"):
        recipe.schemes(["a.in_proj"], 1)
    rules[1]["optional"] = True
    recipe = Recipe.model_validate({"name": "x", "summary": "x", "weights": rules})
    assert recipe.schemes(["a.in_proj"], 1)["a.in_proj"].encoding == "float16"
    assert recipe.schemes(["a.in_proj", "a.v_proj"], 1)["a.v_proj"].bits == 8
