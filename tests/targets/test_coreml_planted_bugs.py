"""Bugs planted into a saved Core ML package or its host: the evaluator's parity must find each."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coremltools.proto import Model_pb2
from hexagon_artifacts import reference_of, snr_db
from test_coreml_lowering import FLOAT32_FLOOR, coreml_job, emitted, run

from slmkit_coreml import run as host
from slmkit_coreml.package import MODEL, WEIGHTS
from tiny_models import tiny_config, write_checkpoint

FLIPS = 30
CAUGHT = 25  # of FLIPS: 29 are; padding, or the last bit of a scale, may stay below the floor


class Planted:
    """A copy of a package, open for surgery; facts of the artifact; patches of the host."""

    def __init__(self, folder: Path, facts: dict, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.facts, self.patch = folder, facts, patch
        self.path = folder / "model.mlpackage" / MODEL
        self.message = Model_pb2.Model()
        self.message.ParseFromString(self.path.read_bytes())

    def save(self) -> None:
        self.path.write_bytes(self.message.SerializeToString())

    def operations(self, kind: str):
        for function in self.message.mlProgram.functions.values():
            for op in function.block_specializations[function.opset].operations:
                if op.type == kind:
                    yield op


def wrong_rope_theta(planted: Planted) -> None:
    frequencies = (20000.0 ** (-np.arange(0, 16, 2) / 16)).tolist()
    planted.facts["rope"] = {"frequencies": frequencies, "magnitude": 1.0}


def mask_off_by_one(planted: Planted) -> None:
    right = host._mask
    planted.patch.setattr(
        host, "_mask", lambda queries, keys, window: right(queries + 1, keys, window)
    )


def mask_of_the_wrong_orientation(planted: Planted) -> None:
    """Query-major: the lower triangle of the new tokens becomes the upper one."""
    right = host._mask

    def turned(queries, keys, window):
        mask = right(queries, keys, window)
        tokens = len(queries)
        mask[0, -tokens:, 0] = mask[0, -tokens:, 0].T.copy()
        return mask

    planted.patch.setattr(host, "_mask", turned)


def swapped_keys_and_values(planted: Planted) -> None:
    for op in planted.operations("slice_by_size"):
        for argument in op.inputs["x"].arguments:
            swap = {"past_keys": "past_values", "past_values": "past_keys"}
            argument.name = swap.get(argument.name, argument.name)


def stale_cache(planted: Planted) -> None:
    """The host keeps what it had: the new values are lost."""
    right = host.CoremlRunner.step

    def forgetful(self, ids, window):
        kept = self.values.copy()
        logits = right(self, ids, window)
        self.values = kept
        return logits

    planted.patch.setattr(host.CoremlRunner, "step", forgetful)


def wrong_position_in_decode(planted: Planted) -> None:
    right = host.Rope.table

    def late(self, positions):
        return right(self, np.asarray(positions) + (len(positions) == 1))

    planted.patch.setattr(host.Rope, "table", late)


def swapped_gate_and_up(planted: Planted) -> None:
    """In both functions, the codes and scales of one under the name of the other."""
    names = [f"model_layers_1_mlp_{part}_proj_0_weight" for part in ("gate", "up")]
    for function in planted.message.mlProgram.functions.values():
        operations = function.block_specializations[function.opset].operations
        gate, up = (next(op for op in operations if op.outputs[0].name == name) for name in names)
        for key in ("data", "scale"):
            kept = gate.inputs[key].SerializeToString()
            gate.inputs[key].CopyFrom(up.inputs[key])
            up.inputs[key].ParseFromString(kept)


def scales_of_another_row(planted: Planted) -> None:
    """A weight's scales shifted by one row."""
    for op in planted.operations("constexpr_blockwise_shift_scale"):
        if op.outputs[0].name == "model_layers_0_self_attn_o_proj_0_weight":
            offset = op.inputs["scale"].arguments[0].value.blobFileValue.offset
            path = planted.folder / "model.mlpackage" / WEIGHTS / "weight.bin"
            raw = np.memmap(path, np.uint8, "r+")
            size, start = raw[offset + 8 : offset + 24].view(np.uint64)
            scales = raw[int(start) : int(start + size)].view(np.float16)
            scales[:] = np.roll(scales, 2)
            raw.flush()
            return


BUGS = [
    wrong_rope_theta, mask_off_by_one, mask_of_the_wrong_orientation, swapped_keys_and_values,
    stale_cache, wrong_position_in_decode, swapped_gate_and_up, scales_of_another_row,
]  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    job = coreml_job(write_checkpoint(folder / "model", tiny_config("qwen2")), folder)
    return folder / "coreml", emitted(job, folder / "coreml"), job, reference_of(job)


def evaluated_db(original, folder: Path, patch, plant: Callable[[Planted], None]) -> float:
    source, artifact, job, expected = original
    shutil.copytree(source, folder)
    planted = Planted(folder, dict(artifact.facts), patch)
    plant(planted)
    planted.save()
    changed = dataclasses.replace(artifact, facts=planted.facts)
    return snr_db(expected, run(folder, changed, job, "float32"))


def test_the_surgery_itself_changes_nothing(original, tmp_path, monkeypatch):
    found = evaluated_db(original, tmp_path / "c", monkeypatch, lambda planted: None)
    assert found > FLOAT32_FLOOR


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_parity_catches(original, tmp_path, monkeypatch, plant):
    found = evaluated_db(original, tmp_path / "c", monkeypatch, plant)
    assert not found >= FLOAT32_FLOOR, f"{found:.1f} dB"


def test_most_single_bit_flips_in_the_weights_are_caught(original, tmp_path, monkeypatch):
    random, caught = np.random.default_rng(11), 0
    for number in range(FLIPS):

        def flip(planted: Planted) -> None:
            path = planted.folder / "model.mlpackage" / WEIGHTS / "weight.bin"
            raw = np.memmap(path, np.uint8, "r+")
            raw[random.integers(len(raw))] ^= np.uint8(1 << random.integers(8))
            raw.flush()

        try:
            found = evaluated_db(original, tmp_path / str(number), monkeypatch, flip)
        except (RuntimeError, ValueError, OverflowError):
            caught += 1  # a blob's header: the loader itself refuses it
            continue
        caught += not found >= FLOAT32_FLOOR
    assert caught >= CAUGHT, f"{caught} of {FLIPS}"
