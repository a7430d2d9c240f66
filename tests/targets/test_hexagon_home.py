"""The sample model on Hexagon's emulator is as good at its job as on the CPU."""

from __future__ import annotations

import dataclasses

import numpy as np
from hexagon_artifacts import emitted, job_of

from slmkit.build import build
from slmkit.calibration import calibration_texts
from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.evaluate import HELD_OUT, read_examples
from slmkit.load import load
from slmkit.progress import Silent
from slmkit_onnx.hexagon.open import open_runner
from tiny_models import ort_request

SENTENCES = 100
ONE_POINT = 1  # of SENTENCES
CONTEXT, CHUNK = 128, 64


def right_answers(runner, tokenizer) -> int:
    """How many greedy answers are the expected ones, to the letter.

    A greedy answer is the expected one exactly if at each of its tokens the expected next one is
    the best: one pass over prompt and answer decides, where decoding would take a hundred.
    """
    right = 0
    for example in read_examples(HELD_OUT)[:SENTENCES]:
        prompt = tokenizer.prompt_ids(example.prompt)
        answer = [*tokenizer.encode(example.answer, special=False), tokenizer.stop_ids[0]]
        runner.reset()
        best = runner.feed(np.array([*prompt, *answer[:-1]])).argmax(axis=1)
        right += best[len(prompt) - 1 :].tolist() == answer
    return right


def test_int4_on_the_emulator_is_within_a_point_of_int8_on_the_cpu(tmp_path):
    checkpoint = open_checkpoint(SAMPLE_MODEL)
    job = dataclasses.replace(
        job_of(SAMPLE_MODEL, tmp_path), calibration=calibration_texts(checkpoint, None),
        context_length=CONTEXT, prefill_chunk=CHUNK,
    )  # fmt: skip
    artifact = emitted(job, tmp_path / "hexagon")
    emulated = open_runner(tmp_path / "hexagon", artifact, "sm8650")
    on_cpu = load(build(ort_request(SAMPLE_MODEL, "int8", tmp_path / "out"), Silent()).folder)
    expected = right_answers(on_cpu.runner, checkpoint.tokenizer)
    assert expected >= 95
    assert right_answers(emulated, checkpoint.tokenizer) >= expected - ONE_POINT
