"""Evaluation of checkpoints and of codes, against logits that are computed at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from slmkit.checkpoint.folder import open_checkpoint
from slmkit.errors import SlmkitError, UsageError
from slmkit.evaluation import sources
from slmkit.evaluation.text import UNSCORED, evaluation_text
from slmkit.interpreters import reference
from slmkit.parity.golden import log_norms
from slmkit.workflows.evaluate import evaluate_text

SMALL: dict[str, Any] = {"window": 40, "tokens": 200, "cache": False}


def perplexity(checkpoint, text):
    rows = np.concatenate(
        [reference.logits(checkpoint.shards, checkpoint.spec, [ids])[0] for ids in text.sequences]
    )
    scored = text.following != UNSCORED
    taken = rows[np.flatnonzero(scored), text.following[scored]].astype(np.float64)
    return math.exp((log_norms(rows)[scored] - taken).mean())


@pytest.mark.parametrize("batch", [1, 60 * 4 * 320, 10**8])
def test_a_checkpoint_alone_has_the_perplexity_of_its_logits(tiny, monkeypatch, batch):
    folder = tiny("granite-hybrid-moe")
    checkpoint = open_checkpoint(folder)
    monkeypatch.setattr(sources, "BATCH", batch)
    found = evaluate_text(folder, **SMALL)
    text = evaluation_text(checkpoint.tokenizer, None, 40, 200)
    assert found.against is None and found.tokens == text.tokens
    assert found.divergence.perplexity == pytest.approx(perplexity(checkpoint, text), rel=1e-5)
    assert found.divergence.kl == 0


def test_finer_codes_diverge_less(tiny):
    folder = tiny("llama")
    kls = [
        evaluate_text(folder, recipe=recipe, **SMALL).divergence.kl
        for recipe in ("int4-compact", "int8", "float16")
    ]
    assert kls[0] > kls[1] > kls[2] > 0
    palettes = evaluate_text(folder, recipe="int4", artifact="coreml", **SMALL)
    assert palettes.divergence.kl != evaluate_text(folder, recipe="int4", **SMALL).divergence.kl


def test_a_checkpoint_is_compared_with_another_of_the_same_tokens(tiny):
    one, other = tiny("llama"), tiny("qwen2")
    found = evaluate_text(one, model=other, **SMALL)
    assert found.divergence.kl > 0.1
    alone = evaluate_text(other, **SMALL)
    assert found.divergence.float_perplexity == pytest.approx(alone.divergence.perplexity)
    with pytest.raises(UsageError, match="different tokens"):
        evaluate_text(one, model=tiny("qwen3", vocab_size=400), **SMALL)


def test_an_unknown_artifact_is_a_sentence(tiny):
    with pytest.raises(SlmkitError) as caught:
        evaluate_text(tiny("llama"), recipe="int4", artifact="nonsense", **SMALL)
    assert "nonsense" in caught.value.message and caught.value.hint
