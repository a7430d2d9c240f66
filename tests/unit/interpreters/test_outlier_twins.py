"""Outlier twins have what they are for: a sink at bos, outlier channels, and logits of sense."""

from __future__ import annotations

import numpy as np
import pytest

from outlier_twins import (
    OUTLIER,
    OVER_FLOAT16,
    PEAK,
    TWINS,
    Listening,
    channels_of,
    outlier_twin,
    residuals,
    text_for,
)
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.interpreters.reference import Cache, Reference
from tiny_models import BOS

ROUNDED = (  # ops whose results take part in the arithmetic
    *("embed", "linear", "rms_norm", "rope", "attend", "add", "mul", "scale", "sigmoid", "silu"),
    *("tanh", "gelu_tanh", "scale_by_column", "add_bias", "softplus", "conv", "scan"),
)


class Float16Reference(Reference):
    """The reference in float16: what each op gives is rounded; inner sums are float32."""


def rounded(name):
    exact = getattr(Reference, name)

    def op(self, *given, **more):
        with np.errstate(over="ignore", invalid="ignore"):
            return exact(self, *given, **more).astype(np.float16).astype(np.float32)

    return op


for name in ROUNDED:
    setattr(Float16Reference, name, rounded(name))


@pytest.fixture(scope="module", params=TWINS)
def twin(request, tmp_path_factory):
    return open_checkpoint(outlier_twin(tmp_path_factory.mktemp("twin") / "model", request.param))


def listen(twin, ids):
    """The logits of some tokens, and what led to them."""
    heard = Listening(twin.shards, ids)
    return twin.model.run(heard), heard


def test_the_sink_is_as_large_as_asked_at_the_first_token_alone(twin):
    _, heard = listen(twin, text_for(twin.spec))
    sink = channels_of(twin.spec).sink
    assert len(residuals(heard)) == twin.spec.layers
    for residual in residuals(heard):
        assert np.abs(residual[0]).argmax() == sink
        assert PEAK / 2 < residual[0, sink] < PEAK * 2
        assert np.abs(residual[1:]).max() < PEAK / 50
    massive = [np.abs(x[0]).max() for x in heard.inputs.values() if len(x) > 1]
    assert max(massive) > PEAK / 16  # of down, or what a family has in its place


def test_outlier_channels_stand_out_at_every_norm_and_token(twin):
    _, heard = listen(twin, text_for(twin.spec, seed=7))
    outliers, before_linears = list(channels_of(twin.spec).outliers), 0
    for name, readers in heard.readers.items():
        normed = np.abs(heard.norms[name][1:])
        if normed.shape[1] != twin.spec.width or "lm_head" in readers or "embed" in readers[0]:
            continue
        ratios = normed[:, outliers] / np.median(normed, axis=1, keepdims=True)
        assert OUTLIER / 1.5 < np.median(ratios) < OUTLIER * 1.5, name
        assert np.mean(ratios > OUTLIER / 3) > 0.9, name
        before_linears += 1
    assert before_linears == twin.spec.layers * (2 if twin.spec.feed_forward else 1)


def test_texts_and_prompts_begin_with_bos(twin):
    for ids in (twin.tokenizer.encode("lights"), twin.tokenizer.prompt_ids("lights")):
        assert ids[0] == BOS
        assert BOS not in ids[1:]


def test_logits_say_something(twin):
    logits, _ = listen(twin, text_for(twin.spec))
    assert np.isfinite(logits).all()
    spread = logits.std(axis=1) / twin.spec.logits_scale
    assert spread.min() > 0.3 and spread.max() < 30
    assert len(set(logits.argmax(axis=1).tolist())) > 3


def test_what_comes_later_depends_on_earlier_tokens(twin):
    ids = text_for(twin.spec)
    other = ids.copy()
    other[20] = 7 if ids[20] != 7 else 8
    (before, _), (after, _) = listen(twin, ids), listen(twin, other)
    np.testing.assert_allclose(before[:20], after[:20], atol=1e-4 * before.std())
    changed = np.abs(before - after)[21:].max(axis=1)
    assert changed.max() > 0.3 * before.std()


@pytest.mark.parametrize("row", TWINS)
def test_float16_holds_one_peak_and_overflows_at_the_other(tmp_path, row):
    for peak in (PEAK, OVER_FLOAT16):
        twin = open_checkpoint(outlier_twin(tmp_path / f"{peak:.0f}", row, peak))
        ids = text_for(twin.spec)
        exact, _ = listen(twin, ids)
        reference = Float16Reference(twin.shards, [ids], [Cache()], debug=True)
        logits = twin.model.run(reference)
        infinite = any(np.isinf(residual).any() for residual in residuals(reference))
        assert infinite == (peak == OVER_FLOAT16)
        assert np.isfinite(logits).all() == (peak == PEAK)
        assert np.isfinite(exact).all()


def test_a_twin_is_the_same_each_time_and_another_by_seed(tmp_path):
    files = [
        outlier_twin(tmp_path / str(number), "llama", seed=seed) / "model.safetensors"
        for number, seed in enumerate((0, 0, 1))
    ]
    first, again, other = (file.read_bytes() for file in files)
    assert first == again != other
