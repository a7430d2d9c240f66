"""Calibration text that is none: refused for trained models, whatever the tokens are."""

from __future__ import annotations

import numpy as np
import pytest

from slmkit.activations.observe import calibration_runs
from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.errors import SlmkitError
from slmkit.planning.calibration import calibration_texts
from slmkit.workflows.quality import refuse_noise


def test_random_ids_are_refused():
    checkpoint = open_checkpoint(SAMPLE_MODEL)
    random = np.random.default_rng(0)
    runs = [random.integers(0, checkpoint.spec.vocabulary, 64) for _ in range(12)]
    with pytest.raises(SlmkitError, match="noise to this model: perplexity") as caught:
        refuse_noise(checkpoint, runs)
    assert "--calibration" in caught.value.hint


def test_text_is_not():
    checkpoint = open_checkpoint(SAMPLE_MODEL)
    refuse_noise(checkpoint, calibration_runs(calibration_texts(checkpoint, None)))
