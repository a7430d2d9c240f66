"""Preparing a checkpoint: observed once, scaled where it must be, refused if it is damaged."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy

from artifacts import texts_of
from observed import ALPHA, TEXTS, of_columns, of_rows
from outlier_twins import OVER_FLOAT16, outlier_twin
from slmkit.activations.observe import Activations
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.errors import CheckpointError
from slmkit.interpreters.reference import logits
from slmkit.planning.codes import codes_of
from slmkit.planning.emit import describe_job
from slmkit.planning.memory import matrix_schemes
from slmkit.planning.prepare import Preparation, prepare
from slmkit.recipe.calibration import Calibration
from slmkit.recipe.recipe import load_recipe
from slmkit.snr import snr_db
from slmkit.system.cache import Cache
from slmkit.system.progress import Silent
from tiny_models import scale_weights

LAYER = "model.layers.0"
INT8 = 15  # dB: one factor that is missing leaves 5 at most; 21 without smoothing, 30 with it


def prepared_by(folder, cache, alpha=ALPHA, seed=1):
    checkpoint = open_checkpoint(folder)
    runs = texts_of(checkpoint, TEXTS, seed=seed)
    recipe = load_recipe("int4")
    numbers = recipe.calibration.model_copy(update={"balance": alpha is not None})
    recipe = recipe.model_copy(update={"smoothquant": alpha, "calibration": numbers})
    return checkpoint, prepare(checkpoint, recipe, runs, Cache(cache), Silent())


def int4(checkpoint, artifact=None):
    return matrix_schemes(checkpoint.model, load_recipe("int4"), artifact)


@pytest.fixture
def twin(tmp_path):
    """A checkpoint whose residual stream float16 does not hold."""
    return outlier_twin(tmp_path / "twin", "llama", OVER_FLOAT16)


def test_a_second_time_the_sizes_come_out_of_the_cache(twin, tmp_path, monkeypatch):
    _, first = prepared_by(twin, tmp_path / "cache")
    monkeypatch.setattr("slmkit.planning.prepare.observe", None)
    monkeypatch.setattr("slmkit.planning.balance.input_variances", None)
    _, again = prepared_by(twin, tmp_path / "cache")
    assert (again.key, again.stream_scale) == (first.key, first.stream_scale)
    for name, size in first.activations.inputs.items():
        np.testing.assert_array_equal(again.activations.inputs[name], size)
    assert again.variances.keys() == first.variances.keys() != set()


def test_balance_is_for_codes_of_4_bits_alone(twin, tmp_path):
    checkpoint, prepared = prepared_by(twin, tmp_path / "cache")
    down, out = f"{LAYER}.mlp.down_proj", f"{LAYER}.self_attn.o_proj"
    assert down in prepared.variances and out not in prepared.variances  # 8 bits in int4
    balanced = prepared.factors(checkpoint, int4(checkpoint))
    int8 = matrix_schemes(checkpoint.model, load_recipe("int8"))
    smoothed = prepared.factors(checkpoint, int8)
    assert not np.array_equal(of_columns(balanced[down]), of_columns(smoothed[down]))
    np.testing.assert_array_equal(of_columns(balanced[out]), of_columns(smoothed[out]))


def test_a_recipe_of_before_has_no_balance():
    """Manifests hold their recipe: without the key its bundle's factors must stay as they were."""
    assert not Calibration.model_validate({"tokens": 4096}).balance
    assert load_recipe("int4").calibration.balance


def test_texts_strength_and_weights_have_keys_of_their_own(tiny, twin, tmp_path):
    cache = tmp_path / "cache"
    keys = [
        prepared_by(folder, cache, **more)[1].key
        for folder in (tiny("llama"), twin)
        for more in ({}, {"seed": 2}, {"alpha": None}, {"alpha": 0.7})
    ]
    assert len(set(keys)) == len(keys)


def test_codes_hold_the_scale_and_the_job_s_spec_has_it(twin, tmp_path):
    checkpoint, prepared = prepared_by(twin, tmp_path / "cache")
    cache = Cache(tmp_path / "cache")
    codes = codes_of(checkpoint, int4(checkpoint), cache, Silent(), prepared)
    assert codes.stream_scale == prepared.stream_scale == 1 / 4
    job = describe_job("ort", checkpoint, codes, load_recipe("int4"), 64, (), "").open()
    assert job.spec == checkpoint.spec.scaled(1 / 4)
    plain = codes_of(checkpoint, int4(checkpoint), cache, Silent())
    assert plain.stream_scale == 1 and plain.key != codes.key


@pytest.mark.parametrize("alpha", [None, ALPHA])
def test_codes_of_prepared_weights_are_the_same_model(twin, tmp_path, alpha):
    """8-bit codes, whose error is small beside a wrong factor's."""
    checkpoint, prepared = prepared_by(twin, tmp_path / "cache", alpha)
    schemes = matrix_schemes(checkpoint.model, load_recipe("int8"))
    codes = codes_of(checkpoint, schemes, Cache(tmp_path / "cache"), Silent(), prepared)
    ids = texts_of(checkpoint, TEXTS, seed=9)
    expected = np.concatenate(logits(checkpoint.shards, checkpoint.spec, ids))
    got = np.concatenate(logits(codes, checkpoint.spec.scaled(codes.stream_scale), ids))
    assert snr_db(expected, got) > INT8


def test_without_a_strength_only_the_stream_is_scaled(twin, tmp_path):
    checkpoint, prepared = prepared_by(twin, tmp_path / "cache", alpha=None)
    factors = prepared.factors(checkpoint, int4(checkpoint))
    assert {name.rpartition(".")[2] for name in factors} == {"o_proj", "down_proj"}


def test_both_kinds_of_factors_meet_in_one_weight(twin, tmp_path):
    checkpoint, prepared = prepared_by(twin, tmp_path / "cache")
    factor = prepared.factors(checkpoint, int4(checkpoint))[f"{LAYER}.mlp.down_proj"]
    assert of_rows(factor).tolist() == [prepared.stream_scale] * 64
    assert np.ptp(of_columns(factor)) > 0


def test_weights_with_palettes_are_not_smoothed(twin, tmp_path):
    checkpoint, prepared = prepared_by(twin, tmp_path / "cache")
    schemes = int4(checkpoint, "coreml")
    factors = prepared.factors(checkpoint, schemes)
    read = {name for name, factor in factors.items() if factor.inputs is not None}
    assert not any(schemes[name].encoding == "palette" for name in read & schemes.keys())
    assert read <= {"lm_head"}  # which has one scale per row


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ([1.0], ""),
        ([1e5], "the output of a reaches 100000"),
        ([1e5, 2e5], "the output of a reaches 100000, and 1 other place"),
    ],
)
def test_overflows_in_words(tiny, outputs, said):
    sizes = {name: np.array([size], np.float32) for name, size in zip("ab", outputs, strict=False)}
    checkpoint = open_checkpoint(tiny("llama"))
    prepared = Preparation(Activations(1, outputs=sizes), 1.0, None, "key", (), Calibration())
    assert prepared.problems(checkpoint, int4(checkpoint)) == said


@pytest.mark.parametrize(
    ("row", "at", "output"),
    [("llama", "model", "mlp.down_proj"), ("mamba", "backbone", "mixer.out_proj")],
)
def test_a_model_that_computes_no_numbers_is_one_sentence(tiny, tmp_path, row, at, output):
    """Weights that are numbers, whose products pass float32's largest."""
    folder = tiny(row)
    scale_weights(folder, f"{at}.layers.0.{output}", 1e38)
    with pytest.raises(CheckpointError, match=f"NaN or infinity .* {at}.layers.1.") as caught:
        prepared_by(folder, tmp_path / "cache")
    assert caught.value.hint


def test_a_weight_that_is_no_number_is_named(tiny, tmp_path):
    folder = tiny("llama")
    path = folder / "model.safetensors"
    values = safetensors.numpy.load_file(path)
    values[f"{LAYER}.mlp.up_proj.weight"][3] = np.nan
    safetensors.numpy.save_file(values, path)
    with pytest.raises(CheckpointError, match=f"tensor {LAYER}.mlp.up_proj.weight holds NaN"):
        prepared_by(folder, tmp_path / "cache")
