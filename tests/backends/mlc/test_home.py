"""The sample model through mlc's program on this processor, in the type that ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from home_answers import SENTENCES, right_answers
from mlc_artifacts import mlc_job, program_of
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit_mlc.runner import MlcRunner
from tiers import SCHEMES, some

HOME = Path(__file__).resolve().parents[3] / "toolkit" / "slmkit" / "sample_model"


@pytest.mark.parametrize("scheme", some(["", "float16"], "", why=SCHEMES))
def test_the_sample_model_does_its_job(tmp_path, scheme):
    job = mlc_job(HOME, tmp_path, scheme, "ios", context_length=128, prefill_chunk=128)
    runner = MlcRunner(tmp_path, program_of(job, tmp_path), "float16")
    assert right_answers(runner, Tokenizer(HOME)) == SENTENCES
