"""Bugs planted into a finished hexagon artifact: each must be caught on the emulator."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from artifacts import emitted, reference_of, run, snr_db
from hexagon_artifacts import hexagon_job
from slmkit.checkpoint.safetensors import SafetensorsFile
from slmkit.errors import BackendError
from slmkit.quant.codes import pack, unpack
from slmkit_onnx.declarations import HEXAGON
from slmkit_onnx.hexagon.host import Host
from tiny_models import tiny_config, write_checkpoint

BOUND = HEXAGON.errors["activations"].bound["snr_db"]  # below it a build is refused
ATTENTION = "model.layers.0.self_attn"
CHANGES = {"rms_norm_eps": 0.02}  # large enough to count: the embeddings are 0.1 wide
TOKENS = 36  # chunks of 7, 9 and 16 tokens, then four decode steps
KINDS = ("prefill", "decode")


class Planted:
    """The QDQ graphs, weights and facts of an artifact, open for surgery."""

    def __init__(self, folder: Path, facts: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
        self.folder, self.facts, self.patch = folder, facts, patch
        self.models = {
            kind: onnx.load(str(folder / f"{kind}.onnx"), load_external_data=False)
            for kind in KINDS
        }

    def save(self) -> None:
        for kind, model in self.models.items():
            (self.folder / f"{kind}.onnx").write_bytes(model.SerializeToString())

    def nodes(self, op: str) -> list[onnx.NodeProto]:
        return [
            node
            for model in self.models.values()
            for node in model.graph.node
            if node.op_type == op
        ]

    def producer(self, output: str) -> list[onnx.NodeProto]:
        return [
            node
            for model in self.models.values()
            for node in model.graph.node
            if output in node.output
        ]

    def constant(self, name: str, value: object) -> str:
        for model in self.models.values():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def change(self, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
        """Edit a tensor of the data file; 4-bit codes as one code a byte."""
        graph = self.models["prefill"].graph
        tensor = next(each for each in graph.initializer if each.name == name)
        where = {entry.key: entry.value for entry in tensor.external_data}
        four = tensor.data_type == onnx.TensorProto.INT4
        dtype = np.uint8 if four else helper.tensor_dtype_to_np_dtype(tensor.data_type)
        shape = (int(where["length"]),) if four else tuple(tensor.dims)
        path = self.folder / "weights.data"
        data = np.memmap(path, dtype, "r+", int(where["offset"]), shape)
        if four:
            codes = edit(unpack(np.array(data), 4).reshape(tuple(tensor.dims)))
            data[:] = pack(np.ascontiguousarray(codes).reshape(-1), 4)
        else:
            data[:] = edit(np.array(data))
        data.flush()


def wrong_rope_theta(planted: Planted) -> None:
    frequencies = (20000.0 ** (-np.arange(0, 16, 2) / 16)).tolist()
    planted.facts["ropes"] = [{"frequencies": frequencies, "magnitude": 1.0}]


def swapped_kv_heads(planted: Planted) -> None:
    for part in ("codes", "multipliers", "channel_scales", "bias.q"):
        planted.change(f"{ATTENTION}.k_proj.{part}", lambda values: np.roll(values, 16, axis=-1))


def missing_eps(planted: Planted) -> None:
    for node in planted.nodes("RMSNormalization"):
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 1e-12


def transposed_scales(planted: Planted) -> None:
    planted.change(f"{ATTENTION}.q_proj.multipliers", lambda k: k.T.reshape(k.shape))
    planted.change(f"{ATTENTION}.q_proj.channel_scales", lambda scales: scales[::-1])


def wrong_position_in_decode(planted: Planted) -> None:
    """A decode step rotates by one position too many; a shift of all would be invisible."""
    right = Host.inputs

    def late(self, queries, keys):
        tables = right(self, queries + (len(queries) == 1), keys)
        masks = right(self, queries, keys)
        return {**masks, **{name: tables[name] for name in ("cos", "sin")}}

    planted.patch.setattr(Host, "inputs", late)


def mask_off_by_one(planted: Planted) -> None:
    right = Host._mask
    planted.patch.setattr(
        Host, "_mask", lambda self, queries, keys, window: right(self, queries + 1, keys, window)
    )


def swapped_gate_and_up(planted: Planted) -> None:
    at = "model.layers.1.mlp"
    for model in planted.models.values():
        for node in model.graph.node:
            names = {f"{at}.gate_proj.weight": f"{at}.up_proj.weight"}
            names |= {new: old for old, new in names.items()}
            if node.op_type == "MatMul":
                node.input[1] = names.get(node.input[1], node.input[1])


def stale_cache(planted: Planted) -> None:
    """The step itself is right, but what it gives to the host as its values is the past's."""
    for kind, tokens in (("prefill", 16), ("decode", 1)):
        graph = planted.models[kind].graph
        past = next(node for node in graph.node if "past_value_0" in node.input)
        for node in graph.node:
            for names in (node.input, node.output):
                for at, name in enumerate(names):
                    names[at] = "bug.fresh" if name == "new_value_0" else name
        bounds = {"bug.start": 0, "bug.stop": tokens, "bug.axis": 2}
        for name, value in bounds.items():
            graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
        for op, inputs, output in (
            ("DequantizeLinear", ["past_value_0", *past.input[1:]], "bug.past"),
            ("Slice", ["bug.past", *bounds], "bug.stale"),
            ("QuantizeLinear", ["bug.stale", *past.input[1:]], "new_value_0"),
        ):
            graph.node.append(helper.make_node(op, inputs, [output], name=f"bug.{op}"))


def wrong_zero_point(planted: Planted) -> None:
    """Nothing below zero is left of the first product that is added to the residual stream."""
    name, product = planted.constant("bug.zero", np.uint16(0)), f"{ATTENTION}.o_proj.product"
    for output in (f"{product}.q", f"{product}.dq"):
        found = list(planted.producer(output))
        assert found
        for node in found:
            node.input[2] = name


def swapped_key_and_value_scales(planted: Planted) -> None:
    for model in planted.models.values():
        found = {
            part: next(node for node in model.graph.node if f"past_{part}_0" in node.input)
            for part in ("key", "value")
        }
        scales = [found[part].input[1] for part in ("key", "value")]
        found["key"].input[1], found["value"].input[1] = scales[::-1]


def mask_of_minus_infinity(planted: Planted) -> None:
    """As a calibrator sees it that listens to such a mask: an infinite scale."""
    name = planted.constant("bug.infinite", np.float32(np.inf))
    for node in planted.nodes("QuantizeLinear") + planted.nodes("DequantizeLinear"):
        if node.input[0] in ("attention_mask", "attention_mask.q"):
            node.input[1] = name


BUGS = [
    wrong_rope_theta,
    swapped_kv_heads,
    missing_eps,
    transposed_scales,
    wrong_position_in_decode,
    mask_off_by_one,
    swapped_gate_and_up,
    stale_cache,
    wrong_zero_point,
    swapped_key_and_value_scales,
    mask_of_minus_infinity,
]


def _enlarge(path: Path, tensor: str) -> None:
    """Make values larger than keys, so that their scales differ."""
    file = SafetensorsFile(path)
    entry = file.entries[tensor]
    raw = bytearray(path.read_bytes())
    values = np.frombuffer(raw, np.float32, math.prod(entry.shape), entry.start)
    np.multiply(values, 4, out=values)
    path.write_bytes(raw)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """An artifact, its job and the reference's logits."""
    folder = tmp_path_factory.mktemp("planted")
    model = write_checkpoint(folder / "model", tiny_config("qwen2", **CHANGES))
    _enlarge(model / "model.safetensors", f"{ATTENTION}.v_proj.weight")
    job = hexagon_job(model, folder)
    return folder / "hexagon", emitted(job, folder / "hexagon"), job, reference_of(job)


def emulated_db(original, tmp_path, monkeypatch, plant) -> float:
    """Signal to noise of the emulator against the reference, after the surgery."""
    source, artifact, job, expected = original
    shutil.copytree(source, tmp_path / "hexagon")
    facts = dict(artifact.facts)
    planted = Planted(tmp_path / "hexagon", facts, monkeypatch)
    plant(planted)
    planted.save()
    changed = dataclasses.replace(artifact, facts=facts)
    got = run(tmp_path / "hexagon", changed, "sm8650", job, TOKENS)
    return snr_db(expected[:TOKENS], got)


def test_the_surgery_itself_changes_nothing(original, tmp_path, monkeypatch):
    assert emulated_db(original, tmp_path, monkeypatch, lambda planted: None) > 50


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_the_emulator_catches(original, tmp_path, monkeypatch, plant):
    if plant is mask_of_minus_infinity:
        with pytest.raises(BackendError, match="attention_mask"):  # its compiler refuses it
            emulated_db(original, tmp_path, monkeypatch, plant)
        return
    found = emulated_db(original, tmp_path, monkeypatch, plant)
    assert BOUND and not found >= BOUND, f"{found:.1f} dB"  # NaN is caught too


def test_a_host_s_minus_infinity_saturates_and_harms_nothing(original, tmp_path, monkeypatch):
    def plant(planted: Planted) -> None:
        planted.facts["hidden"] = -np.inf

    assert emulated_db(original, tmp_path, monkeypatch, plant) > 50
