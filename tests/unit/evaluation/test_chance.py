"""Random weights are told from trained ones, whatever the size of their logits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.evaluation.chance import MARGIN, Margin, is_trained
from slmkit.evaluation.divergence import perplexity
from slmkit.evaluation.held_out import held_out_text
from slmkit.evaluation.sources import float_answers, reference_logits
from slmkit.evaluation.text import EvaluationText, Window, evaluation_text
from tiers import ROWS, SAYS_MOST, some
from tiny_models import TINY


def measured(checkpoint, text):
    margin, spec = Margin(text), checkpoint.spec
    pieces = reference_logits(checkpoint.shards, spec, text.sequences)
    expected = float_answers(margin.watch(pieces), text, 10)
    return perplexity(expected.log_next), spec.vocabulary, margin.mean


@pytest.mark.parametrize("row", some(TINY, "llama", SAYS_MOST, why=ROWS))
def test_random_weights_are_random(tiny, row):
    checkpoint = open_checkpoint(tiny(row))
    found = measured(checkpoint, held_out_text(checkpoint, (), 1, 256))
    assert not is_trained(*found) and abs(found[2]) < MARGIN


def test_the_sample_model_is_trained_and_on_alien_text_its_perplexity_alone_would_not_say_so():
    home = open_checkpoint(SAMPLE_MODEL)
    own = measured(home, held_out_text(home, (), 1, 256))
    assert is_trained(*own) and own[2] > 2
    alien = measured(home, evaluation_text(home.tokenizer, None, 128, 1000))
    assert alien[0] > alien[1] and alien[2] > 0.1


@pytest.mark.parametrize(
    ("perplexity", "vocabulary", "margin", "trained"),
    [
        (43.9, 49152, 3.2, True),
        (940, 512, 0.68, True),  # stories260K on text in other languages
        (1368, 320, 0.03, False),
        (292, 320, -0.15, False),
        (43.9, 49152, 0.0, True),  # as little as it may know
        (math.nan, 320, math.nan, True),
        (math.inf, 320, 0.0, False),
    ],
)
def test_chance_is_a_perplexity_of_the_vocabulary_without_a_margin(
    perplexity, vocabulary, margin, trained
):
    assert is_trained(perplexity, vocabulary, margin) is trained


def test_the_margin_by_hand():
    """Two positions, followed by tokens 1 and 2: each is compared with the mean of both."""
    text = EvaluationText((Window(np.asarray([0, 1, 2])),))
    logits = np.asarray([[0, 4, 0], [0, 0, 2], [9, 9, 9]], np.float32)
    margin = Margin(text)
    assert list(margin.watch(iter([logits[:1], logits[1:]])))[1].shape == (2, 3)
    spread = np.std([0, 4, 0]), np.std([0, 0, 2])
    assert margin.mean == pytest.approx(((4 - 2) / spread[0] + (2 - 1) / spread[1]) / 2)
