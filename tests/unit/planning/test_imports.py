"""Codes that a checkpoint brings: who takes them, and that they arrive unchanged."""

from __future__ import annotations

import numpy as np
import pytest

from slmkit.checkpoint.folder import open_checkpoint
from slmkit.planning.codes import codes_of
from slmkit.planning.imports import import_rows, import_sentences, taken_by, with_imports
from slmkit.quant.codes import Codes
from slmkit.recipe.recipe import load_recipe
from slmkit.recipe.scheme import Scheme
from slmkit.system.cache import Cache
from slmkit.system.progress import Silent
from tiny_models import tiny_config, write_checkpoint

UP = "model.layers.0.mlp.up_proj"
EIGHT = Scheme(encoding="group-wise", bits=8, group_size=32, scales="float16", method="imported")
FOUR = Scheme(
    encoding="group-wise",
    bits=4,
    group_size=32,
    symmetric=False,
    scales="float16",
    method="imported",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imports") / "llama"
    write_checkpoint(folder, tiny_config("llama"))
    return open_checkpoint(folder)


def test_an_artifact_takes_codes_that_it_holds_and_no_more_bits_than_asked(checkpoint):
    recipe, model = load_recipe("int4"), checkpoint.model
    assert taken_by(recipe, model, "ort", {UP: FOUR}) == {UP: FOUR}
    assert taken_by(recipe, model, "litert", {UP: FOUR}) == {}  # it has no zero points
    assert taken_by(recipe, model, "ort", {UP: EIGHT}) == {}
    assert taken_by(load_recipe("int8"), model, "ort", {UP: EIGHT}) == {UP: EIGHT}


def test_taken_codes_become_rules_of_the_artifacts(checkpoint):
    recipe, model = load_recipe("int4"), checkpoint.model
    found = with_imports(recipe, model, ["ort", "litert"], {UP: FOUR})
    layers = model.spec.layers
    assert found.scheme(UP, layers, "ort") == FOUR
    assert found.scheme(UP, layers, "litert") == recipe.scheme(UP, layers, "litert")
    assert found.options("ort") == recipe.options("ort")


def test_codes_arrive_in_the_codes_file_as_they_are(checkpoint, tmp_path):
    rows, width = checkpoint.model.shapes[UP]
    random = np.random.default_rng(5)
    scales = random.uniform(0.01, 0.02, (rows, width // 32)).astype(np.float16)
    own = Codes(
        FOUR,
        width,
        random.integers(0, 16, (rows, width), np.uint8),
        scales.astype(np.float32),
        random.integers(7, 9, scales.shape, np.uint8),
    )
    shards = checkpoint.shards
    shards.imports = {UP: FOUR}
    shards.codes = lambda name, rows: Codes(
        FOUR, width, own.codes[rows], own.scales[rows], own.zero_points[rows]
    )
    schemes = load_recipe("int8").schemes(checkpoint.model.matrices, checkpoint.spec.layers)
    found = codes_of(checkpoint, {**schemes, UP: FOUR}, Cache(tmp_path), Silent())
    assert found.schemes[UP] == FOUR
    assert np.array_equal(found.rows(f"{UP}.weight", slice(None)), own.dequantize())


def test_a_report_tells_what_becomes_of_each_format(checkpoint):
    model, own = checkpoint.model, load_recipe("int4")
    down = UP.replace("up_proj", "down_proj")
    plain = dict(own.schemes(model.matrices, model.spec.layers))
    stored, imports = {UP: "Q4_0", down: "Q4_0"}, {UP: FOUR, down: FOUR}
    encodings = {
        "ort": {**plain, UP: FOUR, down: FOUR},
        "litert": plain,
        "mlc": {**plain, UP: FOUR},
    }
    (row,) = import_rows(model, stored, imports, encodings)
    assert row.artifacts == {
        "ort": "exact",
        "litert": "requantized",
        "mlc": "exact and requantized",
    }
    assert (row.format, row.matrices, row.scheme) == ("Q4_0", 2, str(FOUR))
    (sentence,) = import_sentences([row])
    assert sentence.startswith("2 matrices stored as Q4_0: exact in ort; requantized in litert")


def test_codes_are_kept_with_rounded_scales_where_no_exact_form_is(checkpoint):
    recipe, model = load_recipe("int4"), checkpoint.model
    own = FOUR.model_copy(update={"symmetric": True})
    forms = {
        artifact: taken_by(recipe, model, artifact, {UP: own})[UP].scales
        for artifact in ("ort", "mlc", "coreml", "litert", "hexagon")
    }
    assert forms == {
        "ort": "float16",
        "mlc": "float16",
        "coreml": "float16",
        "litert": "free",
        "hexagon": "two-level",
    }
    plain = dict(recipe.schemes(model.matrices, model.spec.layers))
    kept = {**plain, UP: own.model_copy(update={"scales": "two-level"})}
    encodings = {"ort": {**plain, UP: own}, "hexagon": kept}
    (row,) = import_rows(model, {UP: "GPTQ int4 g32"}, {UP: own}, encodings)
    assert row.artifacts == {"ort": "exact", "hexagon": "kept"}
    (row,) = import_rows(model, {UP: "MLX affine int4 g32"}, {UP: own}, encodings, {UP})
    assert row.artifacts == {"ort": "kept", "hexagon": "kept"}  # the codes are not quite stored
