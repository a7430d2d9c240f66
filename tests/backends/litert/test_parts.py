"""A model's graphs in parts of a few layers, in float32 and as stored: the answers of the whole."""

from __future__ import annotations

import json

import numpy as np
import pytest

from artifacts import emitted, ids_for, token_snr_db
from litert_artifacts import litert_job
from slmkit.backend.artifact import artifact_to_json
from slmkit.evaluation.answers_file import save_answers
from slmkit.evaluation.divergence import KEPT
from slmkit.evaluation.sources import float_answers
from slmkit.evaluation.text import EvaluationText, Window
from slmkit.parity.execute import run_job
from slmkit_litert.contract import DECODE, PROOF
from slmkit_litert.lowering.weight_binding import read_model
from slmkit_litert.runner import LitertRunner
from slmkit_litert.verify import graphs
from slmkit_litert.verify.copies import (
    float_bytes,
    stored_bytes,
    write_float_copy,
)
from slmkit_litert.verify.parts import plan_parts
from tiers import ROWS, SCHEMES, some

ALIKE = 100  # dB: kernels of XNNPACK and LiteRT's own, in float32
CHOSEN = ["int4-g32", "int4-free-g32", "int8-per-channel", ""]
MODELS = ["llama-tied", "qwen2-window", "gemma3", "qwen3-moe", "lfm2", "mamba"]


@pytest.fixture
def little_memory(monkeypatch):
    """A runner that may keep a share of a model's weights, in float32 or in another ``size``."""

    def limit(path, share, size_of=float_bytes):
        size = int(share * sum(size_of(path).values()))
        monkeypatch.setattr(graphs, "may_keep", lambda most: min(most, size))

    return limit


def both(runner, ids):
    """The logits of a prompt, of three tokens after it, and of an app's way to read the prompt."""
    runner.reset()
    fed = [runner.feed(ids), runner.feed(ids[:3])]
    runner.reset()
    return [*fed, runner.prefill(ids)[None]]


@pytest.mark.parametrize("share", [1, 0.2])  # of all weights; at 0.2 most are a part each
@pytest.mark.parametrize("model", some(MODELS, "llama-tied", "lfm2", why=ROWS))
def test_parts_one_after_the_other_answer_like_the_whole(
    tiny, tmp_path, little_memory, model, share
):
    job = litert_job(tiny(model), tmp_path)
    artifact, ids = emitted(job, tmp_path / "litert"), ids_for(job)
    expected = both(LitertRunner(tmp_path / "litert", artifact, "float32"), ids)
    little_memory(tmp_path / "litert" / artifact.facts["model"], share)
    runner = LitertRunner(tmp_path / "litert", artifact, "float32")
    assert runner.parts > 2 / share
    for number in range(runner.parts):
        runner.open_part(number)
        got = both(runner, ids)
        last = number == runner.parts - 1
        assert {each.shape[1] for each in got} == {job.spec.vocabulary if last else 0}
    for ours, theirs in zip(got, expected, strict=True):
        assert token_snr_db(theirs, ours).min() > ALIKE


@pytest.mark.parametrize("share", [1, 0.2])
@pytest.mark.parametrize("model", some(MODELS, "llama-tied", "lfm2", why=ROWS))
@pytest.mark.parametrize("scheme", some(CHOSEN, "int4-g32", "int8-per-channel", why=SCHEMES))
def test_parts_of_the_stored_weights_answer_as_the_whole_bit_for_bit(
    tiny, tmp_path, little_memory, scheme, model, share
):
    job = litert_job(tiny(model), tmp_path, scheme)
    artifact, ids = emitted(job, tmp_path / "litert"), ids_for(job)
    whole = LitertRunner(tmp_path / "litert", artifact, "shipped")
    assert whole.parts == 1
    expected = both(whole, ids)
    little_memory(tmp_path / "litert" / artifact.facts["model"], share, stored_bytes)
    runner = LitertRunner(tmp_path / "litert", artifact, "shipped")
    assert runner.parts > 2 / share
    for number in range(runner.parts):
        runner.open_part(number)
        got = both(runner, ids)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_held_out_text_is_read_in_parts(tiny, tmp_path, little_memory):
    job = litert_job(tiny("llama-tied"), tmp_path, "int4-g32")
    artifact, ids = emitted(job, tmp_path / "litert"), ids_for(job)
    text = EvaluationText((Window(ids, 1),))
    logits = LitertRunner(tmp_path / "litert", artifact, "float32").feed(ids)
    path = tmp_path / "answers.npz"
    save_answers(float_answers(iter([logits]), text, KEPT), text, path)
    payload = payload_of(artifact, tmp_path, "shipped", [ids.tolist()])
    payload |= {"decode": [0], "held_out": str(path), "chunk": 16}
    whole = run_job(payload, lambda done, _: None)
    little_memory(tmp_path / "litert" / artifact.facts["model"], 1, stored_bytes)
    found = run_job(payload, lambda done, _: None)
    assert "parts" not in whole["runtime"] and "in 5 parts" in found["runtime"]
    assert found["divergence"] == whole["divergence"]
    assert found["divergence"]["positions"] == len(ids) - 2  # none follows the last


def payload_of(artifact, folder, mode, sequences):
    """A job of some sequences, the most of each a prompt."""
    return {
        "artifact": artifact_to_json(artifact),
        "folder": str(folder / "litert"),
        "mode": mode,
        "sequences": sequences,
        "prompt_lengths": [len(ids) - 1 for ids in sequences],
        "out": str(folder),
    }


def test_a_job_of_known_tokens_runs_in_parts_and_one_that_decodes_does_not(
    tiny, tmp_path, little_memory
):
    job = litert_job(tiny("llama-tied"), tmp_path)
    artifact, ids = emitted(job, tmp_path / "litert"), ids_for(job).tolist()
    payload = payload_of(artifact, tmp_path, "float32", [ids, ids[:5]])
    told: list[int] = []

    def ran(decode):
        told.clear()
        found = run_job({**payload, "decode": decode}, lambda done, _: told.append(done))
        return found, [np.load(tmp_path / f"{at}.npy") for at in range(2)]

    _, expected = ran([0, 0])
    fed = sum(told)
    little_memory(tmp_path / "litert" / artifact.facts["model"], 1)
    found, got = ran([0, 0])
    assert "in 5 parts" in found["runtime"] and "XNNPACK" in found["runtime"]
    assert sum(told) == fed
    for ours, theirs in zip(got, expected, strict=True):
        assert token_snr_db(theirs, ours).min() > ALIKE
    decoded, _ = ran([2, 0])
    assert "parts" not in decoded["runtime"] and len(decoded["sequences"][0]) == len(ids) + 2


def test_a_part_has_its_own_weights_and_caches_in_every_graph(tiny, tmp_path):
    job = litert_job(tiny("llama-tied"), tmp_path)
    artifact = emitted(job, tmp_path / "litert")
    path = tmp_path / "litert" / artifact.facts["model"]
    sizes = float_bytes(path)
    limit = sum(sizes.values()) // 4
    plan = plan_parts(read_model(path)[0], DECODE, sizes, limit)
    held, caches = [], []
    for number in range(len(plan.sizes)):
        out = tmp_path / "part.tflite"
        write_float_copy(path, out, tmp_path / "litert" / artifact.facts["proof"], plan, number)
        model, content = read_model(out)
        held.append(len(content))
        made = {
            signature.signatureKey.decode(): {
                each.name.decode()
                for each in signature.outputs
                if each.name.startswith(b"kv_cache")
            }
            for signature in model.signatureDefs
        }
        caches.append(made)
        assert made[DECODE] == made[PROOF]
    every = [name for made in caches for name in made[DECODE]]
    assert sorted(every) == sorted({*every}) and len(every) == 2 * job.spec.layers
    graphs_alone = 200_000  # bytes
    table = sizes["model.embed_tokens.weight"]  # in the first and in the last part
    assert max(held) < max(limit, table) + table + graphs_alone
    assert sum(held) < sum(sizes.values()) + table + len(held) * graphs_alone, json.dumps(held)
