"""Bugs planted into a saved Core ML package or its host: the evaluator's parity must find each."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.proto import Model_pb2

from artifacts import FLOAT32_FLOOR, emitted, reference_of, run, snr_db
from coreml_artifacts import coreml_job
from slmkit.ops import Rope
from slmkit_coreml import runner as host
from slmkit_coreml.lowering import weights
from slmkit_coreml.package import MODEL, WEIGHTS
from tiny_models import tiny_config, write_checkpoint

FLIPS = 30
CAUGHT = (
    27  # of FLIPS: 29 and 30 are; padding, or the last bit of a scale, may stay below the floor
)


class Planted:
    """A copy of a package, open for surgery; facts of the artifact; patches of the host."""

    def __init__(self, folder: Path, facts: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
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

    def blob(self, label: str, part: str, dtype: Any) -> np.ndarray:
        """A constexpr's input in weight.bin, writable in place."""
        kinds = ("constexpr_blockwise_shift_scale", "constexpr_lut_to_dense")
        op = next(
            op for kind in kinds for op in self.operations(kind) if op.outputs[0].name == label
        )
        offset = op.inputs[part].arguments[0].value.blobFileValue.offset
        raw = np.memmap(self.folder / "model.mlpackage" / WEIGHTS / "weight.bin", np.uint8, "r+")
        size, start = (int(each) for each in raw[offset + 8 : offset + 24].view(np.uint64))
        return raw[start : start + size].view(dtype)


def wrong_rope_theta(planted: Planted) -> None:
    frequencies = (20000.0 ** (-np.arange(0, 16, 2) / 16)).tolist()
    planted.facts["ropes"] = [{"frequencies": frequencies, "magnitude": 1.0}]


def mask_off_by_one(planted: Planted) -> None:
    right = host._mask
    planted.patch.setattr(
        host, "_mask", lambda queries, keys, window: right(queries + 1, keys, window)
    )


def mask_of_the_wrong_orientation(planted: Planted) -> None:
    """Key by query: the lower triangle of the new tokens becomes the upper one."""
    right = host._mask

    def turned(queries, keys, window):
        mask = right(queries, keys, window)
        tokens = len(queries)
        mask[:, -tokens:] = mask[:, -tokens:].T.copy()
        return mask

    planted.patch.setattr(host, "_mask", turned)


def swapped_keys_and_values(planted: Planted) -> None:
    for op in planted.operations("slice_by_size"):
        for argument in op.inputs["x"].arguments:
            swap = {"past_keys": "past_values", "past_values": "past_keys"}
            argument.name = swap.get(argument.name, argument.name)


def stale_cache(planted: Planted) -> None:
    """The host keeps what it had: the new values are lost."""
    right = host.CoremlRunner._append

    def forgetful(self, chunk, found, count):
        kept = self.past["values"].copy()
        right(self, chunk, found, count)
        self.past["values"] = kept

    planted.patch.setattr(host.CoremlRunner, "_append", forgetful)


def wrong_position_in_decode(planted: Planted) -> None:
    right = Rope.table

    def late(self, positions):
        return right(self, np.asarray(positions) + (len(positions) == 1))

    planted.patch.setattr(Rope, "table", late)


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
    scales = planted.blob("model_layers_0_self_attn_o_proj_0_weight", "scale", np.float16)
    scales[:] = np.roll(scales, 2)


def transposed_scales(planted: Planted) -> None:
    scales = planted.blob("model_layers_0_self_attn_o_proj_0_weight", "scale", np.float16)
    scales[:] = scales.reshape(64, 2).T.reshape(-1)


def swapped_kv_heads(planted: Planted) -> None:
    """The two key heads change places, with their scales and bias; the value heads do not."""
    label = "model_layers_0_self_attn_k_proj_0_weight"
    for part, dtype in (("data", np.uint8), ("scale", np.float16)):
        rows = planted.blob(label, part, dtype)
        rows[:] = np.roll(rows, len(rows) // 2)


def missing_eps(planted: Planted) -> None:
    """Of the norms, whose inputs are small enough to feel it."""
    names = {op.inputs["epsilon"].arguments[0].name for op in planted.operations("layer_norm")}
    for op in planted.operations("const"):
        if op.outputs[0].name in names:
            op.attributes["val"].immediateValue.tensor.floats.values[0] = 0


def stale_state_read(planted: Planted) -> None:
    """Attention reads the states as they were before the new tokens were written."""
    before = {}
    updates = {op.outputs[0].name: op for op in planted.operations("slice_update")}
    written = {
        op.inputs["data"].arguments[0].name: op.inputs["input"].arguments[0].name
        for op in planted.operations("write_state")
    }
    assert written.keys() == updates.keys()
    for function in planted.message.mlProgram.functions.values():
        last = None
        for op in function.block_specializations[function.opset].operations:
            if op.type == "write_state":
                last = updates[op.inputs["data"].arguments[0].name].inputs["x"].arguments[0].name
            elif op.type == "read_state" and last is not None:
                before[op.outputs[0].name], last = last, None
            elif op.type == "slice_by_size":
                name = op.inputs["x"].arguments[0].name
                op.inputs["x"].arguments[0].name = before.get(name, name)
    assert before


def wrong_position_of_a_token(planted: Planted) -> None:
    """The runner counts one token too few from the second call on."""
    right = host.CoremlRunner._inputs

    def late(self, ids, window):
        found = right(self, ids, window)
        return {**found, "position": np.maximum(found["position"] - 1, 0)}

    planted.patch.setattr(host.CoremlRunner, "_inputs", late)


def old_slots_are_not_kept(planted: Planted) -> None:
    """The mask of the slots to keep says the opposite."""
    for op in planted.operations("logical_or"):
        op.type = "logical_and"


def palettes_of_another_group(planted: Planted) -> None:
    """A weight's palettes shifted by one group of rows."""
    palettes = planted.blob("model_layers_0_mlp_up_proj_0_weight", "lut", np.float16)
    palettes[:] = np.roll(palettes, 16)


HOST: dict[str, Any] = {"self_contained": False}  # its bugs are planted too
INTEGERS = {"scheme": "int4-g32", **HOST}
PALETTES = {"scheme": "lut4-g16", **HOST}
STATES = {"scheme": "lut4-g16", "kv_cache": "state-slice", **HOST}
BLENDED: dict[str, Any] = {"scheme": "lut4-g16"}
BUGS = {
    wrong_rope_theta: INTEGERS,
    mask_off_by_one: INTEGERS,
    mask_of_the_wrong_orientation: INTEGERS,
    swapped_keys_and_values: INTEGERS,
    stale_cache: INTEGERS,
    wrong_position_in_decode: INTEGERS,
    swapped_gate_and_up: INTEGERS,
    scales_of_another_row: INTEGERS,
    transposed_scales: INTEGERS,
    swapped_kv_heads: INTEGERS,
    missing_eps: INTEGERS,
    stale_state_read: STATES,
    wrong_position_of_a_token: BLENDED,
    old_slots_are_not_kept: BLENDED,
    palettes_of_another_group: PALETTES,
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Right artifacts by form: where, artifact, job, reference."""
    found = {}
    folder = tmp_path_factory.mktemp("planted")
    model = write_checkpoint(folder / "model", tiny_config("qwen2", rms_norm_eps=1e-3))
    for number, form in enumerate((INTEGERS, PALETTES, STATES, BLENDED)):
        options = {key: value for key, value in form.items() if key != "scheme"}
        job = coreml_job(model, folder / str(number), form["scheme"])
        job = dataclasses.replace(job, options=options)
        place = folder / f"coreml-{number}"
        found[str(form)] = place, emitted(job, place), job, reference_of(job)
    return found


def evaluated_db(original, folder: Path, patch, plant: Callable[[Planted], None]) -> float:
    source, artifact, job, expected = original
    shutil.copytree(source, folder)
    planted = Planted(folder, dict(artifact.facts), patch)
    plant(planted)
    planted.save()
    changed = dataclasses.replace(artifact, facts=planted.facts)
    return snr_db(expected, run(folder, changed, "float32", job))


@pytest.mark.parametrize("form", [INTEGERS, PALETTES, STATES, BLENDED], ids=str)
def test_the_surgery_itself_changes_nothing(originals, tmp_path, monkeypatch, form):
    found = evaluated_db(originals[str(form)], tmp_path / "c", monkeypatch, lambda planted: None)
    assert found > FLOAT32_FLOOR


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_parity_catches(originals, tmp_path, monkeypatch, plant):
    found = evaluated_db(originals[str(BUGS[plant])], tmp_path / "c", monkeypatch, plant)
    assert not found >= FLOAT32_FLOOR, f"{found:.1f} dB"


def test_parity_catches_palettes_shifted_by_one_row(originals, tmp_path, monkeypatch):
    """Written by a writer that counts groups from the second row on."""
    right = weights.WeightWriter._palette

    def shifted(self, name, rows, ones):
        indices, palettes = right(self, name, rows, ones)
        groups = (np.arange(len(indices)) + 1) // (len(indices) // len(palettes))
        return indices, palettes[groups.clip(max=len(palettes) - 1)]

    monkeypatch.setattr(weights.WeightWriter, "_palette", shifted)
    _, _, job, expected = originals[str(PALETTES)]
    artifact = emitted(job, tmp_path / "c")
    assert not snr_db(expected, run(tmp_path / "c", artifact, "float32", job)) >= FLOAT32_FLOOR


@pytest.mark.parametrize("form", [INTEGERS, PALETTES], ids=str)
def test_most_single_bit_flips_in_the_weights_are_caught(originals, tmp_path, monkeypatch, form):
    random, caught = np.random.default_rng(11), 0
    for number in range(FLIPS):

        def flip(planted: Planted) -> None:
            path = planted.folder / "model.mlpackage" / WEIGHTS / "weight.bin"
            raw = np.memmap(path, np.uint8, "r+")
            raw[random.integers(len(raw))] ^= np.uint8(1 << random.integers(8))
            raw.flush()

        try:
            found = evaluated_db(originals[str(form)], tmp_path / str(number), monkeypatch, flip)
        except (RuntimeError, ValueError, OverflowError):
            caught += 1  # a blob's header: the loader itself refuses it
            continue
        caught += not found >= FLOAT32_FLOOR
    assert caught >= CAUGHT, f"{caught} of {FLIPS}"
