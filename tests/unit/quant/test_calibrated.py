"""Calibrated codes: nearer to the float model than rounding, resumable, honest about few tokens."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy

from artifacts import texts_of
from slmkit.activations.observe import calibration_runs
from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.inference.evaluate import read_examples
from slmkit.interpreters.reference import logits
from slmkit.interpreters.two_streams import FLOAT, QUANTIZED, TwoStreams
from slmkit.planning.calibration import calibration_texts
from slmkit.planning.codes import calibrated, codes_of
from slmkit.planning.memory import matrix_schemes
from slmkit.planning.prepare import prepare
from slmkit.quant.linear_group import LinearGroup, fits_of
from slmkit.recipe.recipe import load_recipe
from slmkit.recipe.scheme import Scheme
from slmkit.system.cache import Cache
from slmkit.system.progress import Silent
from tiers import ROWS, SAYS_MOST, some
from tiny_models import TINY, tiny_config, write_checkpoint


def codes_for(checkpoint, runs, cache, artifact=None, method=None, progress=None, **numbers):
    recipe = load_recipe("int4")
    changed = recipe.calibration.model_copy(update=numbers)
    recipe = recipe.model_copy(update={"calibration": changed})
    schemes = matrix_schemes(checkpoint.model, recipe, artifact)
    if method:
        schemes = {
            name: each.model_copy(update={"method": method}) for name, each in schemes.items()
        }
    prepared = prepare(checkpoint, recipe, runs, cache, Silent())
    return codes_of(checkpoint, schemes, cache, progress or Silent(), prepared)


def divergence(checkpoint, codes, texts):
    """Mean KL of the codes from the float weights, in nats."""
    found = []
    for weights in (checkpoint.shards, codes):
        rows = np.concatenate(logits(weights, checkpoint.spec, texts)).astype(np.float64)
        rows -= rows.max(axis=1, keepdims=True)
        found.append(rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)))
    floats, got = found
    return float((np.exp(floats) * (floats - got)).sum(axis=1).mean())


@pytest.fixture(scope="module")
def home():
    """The sample model, its calibration text, and questions that no calibration reads."""
    checkpoint = open_checkpoint(SAMPLE_MODEL)
    examples = read_examples(SAMPLE_MODEL / "heldout.jsonl")[:60]
    texts = [
        np.asarray(checkpoint.tokenizer.prompt_ids(each.prompt, False), np.int64)
        for each in examples
    ]
    return checkpoint, calibration_runs(calibration_texts(checkpoint, None)), texts


@pytest.mark.parametrize("artifact", [None, "coreml"], ids=["groups", "palettes"])
def test_calibrated_codes_are_nearer_to_the_float_model(home, tmp_path, artifact):
    checkpoint, runs, texts = home
    cache = Cache(tmp_path)
    on_text = divergence(checkpoint, codes_for(checkpoint, runs, cache, artifact), texts)
    rounded = divergence(checkpoint, codes_for(checkpoint, runs, cache, artifact, "mse"), texts)
    assert on_text < 0.7 * rounded


def test_codes_and_every_loss_are_in_the_file(home, tmp_path):
    checkpoint, runs, _ = home
    codes = codes_for(checkpoint, runs, Cache(tmp_path))
    fits = {each.name: each for each in fits_of(codes)}
    wanted = calibrated(checkpoint, matrix_schemes(checkpoint.model, load_recipe("int4")))
    assert set(fits) == set(wanted)
    assert set(codes.schemes) == set(checkpoint.model.matrices)
    for each in fits.values():
        assert 0 < each.loss < each.rounded_loss
        assert each.target == ("float" if each.tokens_per_input >= 4 else "own")


@pytest.mark.parametrize("part", ["self_attn.v_proj", "mlp.up_proj"])
def test_inputs_that_are_always_zero_are_no_failure(tmp_path, part):
    """As of a layer that was pruned: what reads them has codes all the same."""
    write_checkpoint(tmp_path / "model", tiny_config("llama"))
    path = tmp_path / "model" / "model.safetensors"
    values = safetensors.numpy.load_file(path)
    values[f"model.layers.1.{part}.weight"][:] = 0
    safetensors.numpy.save_file(values, path)
    checkpoint = open_checkpoint(tmp_path / "model")
    codes = codes_for(checkpoint, texts_of(checkpoint, 8), Cache(tmp_path / "cache"))
    reader = {"self_attn.v_proj": "self_attn.o_proj", "mlp.up_proj": "mlp.down_proj"}[part]
    whole = codes.rows(f"model.layers.1.{reader}.weight", slice(None))
    assert np.isfinite(whole).all() and np.abs(whole).max() > 0


class Interrupted(Silent):
    """Stops a build after some groups of linears."""

    def __init__(self, after):
        self.left, self.calibrating = after, False

    def stage(self, label, total):
        self.calibrating = label == "calibrate"

    def advance(self, done):
        self.left -= self.calibrating
        if self.left == 0:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(home, tmp_path, monkeypatch):
    checkpoint, runs, _ = home
    whole = codes_for(checkpoint, runs, Cache(tmp_path / "whole"))
    cache, fitted = Cache(tmp_path / "cache"), list[str]()
    with pytest.raises(KeyboardInterrupt):
        codes_for(checkpoint, runs, cache, progress=Interrupted(5))
    original = LinearGroup.quantize

    def counted(group, *arguments):
        fitted.extend(each.name for each in group.linears)
        return original(group, *arguments)

    monkeypatch.setattr(LinearGroup, "quantize", counted)
    again = codes_for(checkpoint, runs, cache)
    done = len(fits_of(whole)) - len(fitted)
    assert done >= 5
    assert again.path.read_bytes() == whole.path.read_bytes()
    assert not list((tmp_path / "cache").glob(".making-*"))


def test_an_interrupted_run_goes_on_within_the_memory_of_a_whole_one(home, tmp_path, monkeypatch):
    """By the values of each stream that a batch has in memory at once."""
    checkpoint, runs, _ = home
    most = [[0, 0]]
    original = TwoStreams.op

    def watched(streams, name, inputs, *facts, **more):
        value = original(streams, name, inputs, *facts, **more)
        make = value.make

        def counted(batch, stream):
            held = sum(key[1] == stream for key in streams.memo[batch])
            most[-1][stream] = max(most[-1][stream], held)
            return make(batch, stream)

        value.make = counted
        return value

    monkeypatch.setattr(TwoStreams, "op", watched)
    codes_for(checkpoint, runs, Cache(tmp_path / "whole"))
    cache = Cache(tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        codes_for(checkpoint, runs, cache, progress=Interrupted(12))
    most.append([0, 0])
    codes_for(checkpoint, runs, cache)
    whole, resumed = most
    assert 0 < resumed[QUANTIZED] <= whole[QUANTIZED]
    # A whole run has the float output of a linear that it just fitted in a file.
    assert 0 < resumed[FLOAT] <= whole[FLOAT] + 1


def test_text_and_numbers_have_codes_of_their_own(home, tmp_path):
    checkpoint, runs, _ = home
    cache = Cache(tmp_path)
    keys = [
        codes_for(checkpoint, texts, cache, **more).key
        for texts in (runs[:5], runs[1:6])
        for more in ({}, {"sweeps": 0}, {"target": "own"}, {"damping": 0.03})
    ]
    assert len(set(keys)) == len(keys)


EIGHT = Scheme(encoding="per-channel", bits=8, method="gptq")


@pytest.mark.parametrize("row", some(TINY, SAYS_MOST, "qwen2", "phi3", why=ROWS))
def test_every_kind_of_linear_is_calibrated(tiny, tmp_path, row):
    """In 8 bits, where one wrong input, target or bias would stand out."""
    checkpoint, cache = open_checkpoint(tiny(row)), Cache(tmp_path)
    schemes = dict.fromkeys(checkpoint.model.matrices, EIGHT)
    recipe = load_recipe("int8")
    prepared = prepare(checkpoint, recipe, texts_of(checkpoint, 8), cache, Silent())
    codes = codes_of(checkpoint, schemes, cache, Silent(), prepared)
    fits = fits_of(codes)
    assert {each.name for each in fits} == set(calibrated(checkpoint, schemes))
    assert all(each.loss < each.rounded_loss for each in fits if each.target != "nearest")
    rounded = codes_of(checkpoint, schemes, cache, Silent())
    texts = texts_of(checkpoint, 3, seed=9)
    on_text, to_nearest = (divergence(checkpoint, each, texts) for each in (codes, rounded))
    assert on_text < max(4 * to_nearest, 1e-5)


def test_experts_that_few_tokens_chose_are_rounded_and_said_to_be(tiny, tmp_path):
    checkpoint = open_checkpoint(tiny("qwen2-moe"))
    codes = codes_for(checkpoint, texts_of(checkpoint, 1), Cache(tmp_path))
    fits = fits_of(codes)
    few = [each for each in fits if each.target == "nearest"]
    assert few and all("expert" in each.name and each.tokens_per_input < 1 for each in few)
    assert all(each.loss == each.rounded_loss for each in few)
