"""Layers that scan on Hexagon: their states, chunks against single tokens, every chip."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from artifacts import CHUNK, CONTEXT, FLOAT32_FLOOR, emitted, ids_for, reference_of, run, snr_db
from hexagon_artifacts import ACTIVATIONS, EMULATOR, hexagon_job
from slmkit.backend.interface import State
from slmkit.backend.registry import find_backend
from slmkit_onnx.hexagon.modes import open_runner
from slmkit_onnx.hexagon.options import unit_sizes
from slmkit_onnx.hexagon.plan import make_plan
from slmkit_onnx.hexagon.runner import Cache
from tiers import ROWS, some
from tiny_models import tiny_config, write_checkpoint

KINDS = ("mamba", "mamba2")
SHAPES = {"mamba": ((1, 3, 128), (1, 8, 128)), "mamba2": ((1, 3, 144), (1, 8, 128))}


@pytest.fixture(scope="module", params=some(KINDS, "mamba2", why=ROWS))
def made(request, tmp_path_factory):
    """A row, its job, the folder of its artifact, the artifact."""
    folder = tmp_path_factory.mktemp(request.param)
    model = write_checkpoint(folder / "model", tiny_config(request.param))
    job = hexagon_job(model, folder, soc=["sm8550", "sm8850"])
    return request.param, job, folder / "hexagon", emitted(job, folder / "hexagon")


def test_states_go_in_and_out_under_two_names_and_start_at_zero(made):
    row, _, _, artifact = made
    sides = ((artifact.inputs, "past_"), (artifact.outputs, "new_"))
    for tensors, prefix in sides:
        found = {each.name: each for each in tensors if each.name.startswith(prefix)}
        assert set(found) == {f"{prefix}{kind}_{at}" for kind in ("conv", "scan") for at in (0, 1)}
        assert (found[f"{prefix}conv_1"].shape, found[f"{prefix}scan_1"].shape) == SHAPES[row]
        assert (found[f"{prefix}conv_1"].dtype, found[f"{prefix}scan_1"].dtype) == (
            "int16",
            "float32",
        )
        assert found[f"{prefix}conv_1"].zero_point == 0
        assert all("layer" in each.about for each in found.values())
    assert not any("mask" in each.name or "key" in each.name for each in artifact.inputs)


@pytest.mark.parametrize(("mode", "floor"), [("float", FLOAT32_FLOOR), ("qdq", ACTIVATIONS)])
def test_chunks_give_what_single_tokens_give(made, mode, floor):
    _, job, folder, artifact = made
    ids = ids_for(job)[: 2 * CHUNK + 3]
    runner = open_runner(folder, artifact, mode)
    chunks = runner.feed(ids)  # two whole chunks, then three tokens
    assert runner.length == len(ids)
    runner.reset()
    singles = np.concatenate([runner.feed(ids[at : at + 1]) for at in range(len(ids))])
    assert snr_db(chunks, singles) > floor


@pytest.mark.parametrize("chip", ["sm8550", "sm8850"])
def test_the_oldest_and_the_newest_chip_keep_the_floor_and_reload_the_same(made, chip):
    _, job, folder, artifact = made
    ids, expected = ids_for(job)[: CHUNK + 4], reference_of(job)[: CHUNK + 4]
    emulated, reloaded = (
        open_runner(folder, artifact, mode).feed(ids) for mode in (chip, f"{chip}-binary")
    )
    assert snr_db(expected, emulated) > EMULATOR
    np.testing.assert_array_equal(reloaded, emulated)


def test_a_state_that_is_forgotten_is_noticed(made, monkeypatch):
    _, job, folder, artifact = made
    right = run(folder, artifact, "qdq", job)
    kept = Cache.append

    def forgetful(self, found, length, tokens):
        kept(self, {**found, "new_scan_0": np.zeros_like(found["new_scan_0"])}, length, tokens)

    monkeypatch.setattr(Cache, "append", forgetful)
    assert snr_db(right, run(folder, artifact, "qdq", job)) < 30


def test_a_model_cut_between_layers_computes_the_same(made, tmp_path):
    """Between parts the residual is float32: what a scan gives never becomes integers."""
    _, job, folder, artifact = made
    limit = max(unit_sizes(job.model, job.codes.schemes))
    limited = dataclasses.replace(job, options={**job.options, "part_limit": limit})
    split = emitted(limited, tmp_path / "parted")
    assert [part["name"] for part in split.facts["parts"]] == ["layers.0-0", "layers.1-1", "head"]
    assert {each["dtype"] for each in split.facts["between"]} == {"float32"}
    whole = run(folder, artifact, "qdq", job)
    np.testing.assert_array_equal(whole, run(tmp_path / "parted", split, "qdq", limited))


def test_chunks_are_shorter_where_every_channel_has_a_state(made):
    row, job, _, _ = made
    longer = dataclasses.replace(job, context_length=8 * CONTEXT, prefill_chunk=128)
    assert make_plan(longer).windows["prefill"].tokens == (32 if row == "mamba" else 128)
    large = tuple(State(0, "scan", (1536, 16, 1)) for _ in job.model.states)  # of 130 M parameters
    wider = dataclasses.replace(longer, model=dataclasses.replace(job.model, states=large))
    assert make_plan(wider).windows["prefill"].tokens == 16


def test_the_form_for_genai_is_refused(made):
    _, job, _, _ = made
    found = find_backend("hexagon").problems(job.model, job.codes.schemes, {"runtime": "genai"})
    assert len(found) == 1 and "this model has states; use runtime: slmkit" in found[0]
