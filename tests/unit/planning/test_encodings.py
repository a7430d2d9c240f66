"""An artifact with weights of its own: encoded once, compared with its own golden answers."""

from __future__ import annotations

import pytest
import yaml

from slmkit.bundle.manifest import read_manifest
from slmkit.bundle.verify import verify
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.checkpoint.model_card import license_of
from slmkit.errors import RecipeError, RefusedError
from slmkit.planning.memory import matrix_schemes
from slmkit.planning.plan import EVERY, Request, encodings_of, make_plan
from slmkit.recipe.recipe import SHIPPED, load_recipe, parse_recipe
from slmkit.system.progress import Silent
from slmkit.workflows.build import build
from slmkit.workflows.recheck import recheck
from tiers import BUILDS
from tiny_models import tiny_config, write_checkpoint

INT8 = {"match": ["*"], "scheme": {"encoding": "per-channel", "bits": 8}}
PALETTE = {"match": ["*"], "scheme": {"encoding": "palette", "bits": 4, "group_rows": 16}}


def recipe_with(**artifacts):
    values = yaml.safe_load((SHIPPED / "int4.yaml").read_text(encoding="utf-8"))
    return yaml.safe_dump({**values, "name": "mine", "artifacts": artifacts})


def test_the_shipped_default_gives_core_ml_palettes_and_the_others_groups():
    recipe = load_recipe("int4")
    name = "model.layers.0.mlp.up_proj"
    assert str(recipe.scheme(name, 3)) == "int4 g32 two-level"
    assert str(recipe.scheme(name, 3, "hexagon")) == "int4 g32 two-level"
    assert str(recipe.scheme(name, 3, "coreml")) == "lut4 g4"
    assert str(recipe.scheme("lm_head", 3, "coreml")) == "int8 per-channel"


def test_artifacts_with_the_same_weights_share_an_encoding(tiny):
    model = open_checkpoint(tiny("llama")).model
    same = encodings_of(model, load_recipe("int4"), ("ort", "hexagon"))
    assert [(each.name, each.artifacts) for each in same] == [(EVERY, ("ort", "hexagon"))]
    own = parse_recipe(recipe_with(hexagon={"weights": [INT8], "soc": ["sm8650"]}), "mine.yaml")
    found = encodings_of(model, own, ("ort", "hexagon"))
    assert [each.name for each in found] == ["ort", "hexagon"]
    assert len({each.golden for each in found}) == 2
    assert own.options("hexagon") == {"soc": ["sm8650"]}


def test_a_rule_for_one_artifact_that_covers_nothing_is_named_by_its_key(tiny):
    model = open_checkpoint(tiny("llama")).model
    rule = {**PALETTE, "match": ["model.nothing"]}
    recipe = parse_recipe(recipe_with(coreml={"weights": [rule]}), "mine.yaml")
    with pytest.raises(RecipeError, match=r"artifacts\.coreml\.weights\[0\]\.match"):
        matrix_schemes(model, recipe, "coreml")
    assert matrix_schemes(model, recipe, "ort")


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ({"encoding": "palette", "bits": 8, "group_rows": 16}, "bits: encoding palette needs 3,"),
        ({"encoding": "palette", "bits": 4}, "group_rows: belongs to encoding palette"),
        ({"encoding": "per-channel", "bits": 4, "group_rows": 8}, "group_rows: belongs to"),
        ({"encoding": "per-channel", "bits": 6}, "bits: encoding per-channel needs 4 or 8"),
        ({"encoding": "palette", "bits": 4, "group_rows": 16, "method": "absmax"}, "mse or gptq"),
    ],
)
def test_a_mistake_in_an_artifact_s_own_weights_is_named(scheme, said):
    text = recipe_with(coreml={"weights": [{"match": ["*"], "scheme": scheme}]})
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "mine.yaml")
    assert "artifacts.coreml.weights[0].scheme: " in caught.value.message
    assert said in caught.value.message


@pytest.mark.parametrize("artifact", ["ort", "hexagon"])
def test_palettes_are_refused_where_no_runtime_has_them(tiny, tmp_path, artifact):
    path = tmp_path / "mine.yaml"
    path.write_text(recipe_with(**{artifact: {"weights": [PALETTE]}}), encoding="utf-8")
    request = Request(tiny("llama"), "android", str(path), tmp_path / "out", artifacts=(artifact,))
    with pytest.raises(RefusedError, match=r"palettes.*artifacts\.coreml\.weights"):
        make_plan(request)


@pytest.mark.full(BUILDS)
def test_a_bundle_of_two_encodings_is_proved_and_proved_again(tmp_path):
    model = write_checkpoint(tmp_path / "model", tiny_config("llama"))
    path = tmp_path / "mine.yaml"
    own = {"weights": [INT8], "soc": ["sm8650"]}
    path.write_text(recipe_with(hexagon=own), encoding="utf-8")
    request = Request(
        model, "android", str(path), tmp_path / "out", context=64, artifacts=("ort", "hexagon")
    )
    built = build(request, Silent())
    costs = {
        line.artifact: line.metrics.snr_db for line in built.manifest.parity if line.mode == "codes"
    }
    assert costs["hexagon"] > costs["ort"] + 10
    manifest = read_manifest(built.folder)
    goldens = {each.name: each.golden for each in manifest.artifacts}
    assert len(set(goldens.values())) == 2
    verify(built.folder)
    again = recheck(built.folder, model, None, Silent())
    assert [line.artifact for line in again.comparisons if line.mode == "codes"] == [
        "ort",
        "hexagon",
    ]
    assert not any(line.failures for line in again.comparisons)
    later = recheck(built.folder, None, None, Silent())
    assert {line.artifact for line in later.recorded} == {"ort", "hexagon"}
    assert not any(line.failures for line in later.comparisons)


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("---\nlicense: apache-2.0\ntags: [a]\n---\n# A model\n", "apache-2.0"),
        ("# A model\n\nlicense: mit\n", ""),
        ("---\nlicense: [a, b]\n---\n", ""),
        ("---\n!!python/object/apply:os.system ['true']\n---\n", ""),
        ("---\nlicense: mit\n", ""),
        (None, ""),
    ],
)
def test_the_license_is_what_the_model_card_says(tmp_path, card, said):
    if card is not None:
        (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert license_of(tmp_path) == said
