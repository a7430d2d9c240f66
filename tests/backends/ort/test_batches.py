"""Several sequences in one call: right where all are as long, and padding is refused in words."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts import FLOAT32_FLOOR, emitted, make_job, snr_db
from slmkit.interpreters.reference import logits
from slmkit_onnx.ort.contract import LOGITS_FROM, state_tensors
from slmkit_onnx.sessions import cpu_session

NEAR = 20  # dB: far below what the same tokens give without padding


def batch_call(artifact, session, past, ids, mask):
    """One call: the logits of all sequences, and the next call's past."""
    every = {LOGITS_FROM: np.zeros(1, np.int64)}
    inputs = {"input_ids": ids, "attention_mask": mask, **every, **past}
    names = [each.name for each in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, inputs), strict=True))
    tensors = state_tensors(artifact.state)
    return outputs["logits"], {each.past: outputs[each.present] for each in tensors}


@pytest.fixture(params=[8, 16], ids=["plain", "fused"])
def opened(request, tiny, tmp_path):
    """A job, its artifact, a session, and an empty past of two sequences."""
    folder, exact = tiny("llama-tied", head_dim=request.param), {"accuracy_level": 0}
    job = make_job("ort", folder, tmp_path, "int8-g32", options=exact)
    artifact = emitted(job, tmp_path / "ort")
    tensors = state_tensors(artifact.state)
    past = {each.past: np.zeros((2, *each.empty_shape()), np.float32) for each in tensors}
    session = cpu_session(tmp_path / "ort" / artifact.facts["model"], tmp_path / "ort")
    return job, artifact, session, past


def test_sequences_of_one_length_are_exact_together(opened):
    job, artifact, session, past = opened
    ids = np.random.default_rng(2).integers(0, job.spec.vocabulary, (2, 9))
    pieces = []
    for start, end in ((0, 6), (6, 7), (7, 8), (8, 9)):  # the fused form takes no second chunk
        mask = np.ones((2, end), np.int64)
        piece, past = batch_call(artifact, session, past, ids[:, start:end], mask)
        pieces.append(piece)
    got = np.concatenate(pieces, axis=1)
    for row in range(2):
        assert snr_db(logits(job.codes, job.spec, [ids[row]])[0], got[row]) > FLOAT32_FLOOR


def test_the_contract_says_that_padding_is_not_taken(opened):
    job, artifact, session, past = opened
    mask = next(each for each in artifact.inputs if each.name == "attention_mask")
    assert "no padding" in mask.about
    ids = np.random.default_rng(2).integers(0, job.spec.vocabulary, (2, 9))
    ones = np.ones((2, 9), np.int64)
    ones[0, :4] = 0
    got, _ = batch_call(artifact, session, past, ids, ones)
    expected = logits(job.codes, job.spec, [ids[0, 4:]])[0]
    assert snr_db(expected, got[0, 4:]) < NEAR  # as the contract says: wrong
