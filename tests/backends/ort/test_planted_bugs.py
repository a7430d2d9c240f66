"""Parity can fail: each bug below is planted into a finished bundle, and parity must find it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from slmkit.bundle import manifest
from slmkit.bundle.verify import list_files
from slmkit.errors import BackendError
from slmkit.ops import Rope
from slmkit.system.progress import Silent
from slmkit.workflows.build import build
from slmkit.workflows.recheck import recheck
from tiny_models import ort_request, tiny_config, write_checkpoint

ATTENTION = "model.layers.0.self_attn"
QK = f"{ATTENTION}.q_proj+k_proj"  # 64 rows of q, 32 of k: heads of 16; v has 8 bits
GATE_UP = "model.layers.1.mlp.gate_proj+up_proj"  # 96 or 100 rows each


class Artifact:
    """The model file and the data file of a bundle, open for surgery."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "ort"
        self.model = onnx.load(str(self.folder / "model.onnx"), load_external_data=False)
        self.graph = self.model.graph

    def save(self) -> None:
        (self.folder / "model.onnx").write_bytes(self.model.SerializeToString())

    def nodes(self, op: str) -> list[onnx.NodeProto]:
        return [node for node in self.graph.node if node.op_type == op]

    def change(self, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
        """Edit a tensor of the data file in place."""
        tensor = next(each for each in self.graph.initializer if each.name == name)
        where = {entry.key: entry.value for entry in tensor.external_data}
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        data = np.memmap(
            self.folder / "model.onnx.data", dtype, "r+", int(where["offset"]), tuple(tensor.dims)
        )
        data[:] = edit(np.array(data))
        data.flush()

    def insert(self, op: str, inputs: list[str], output: str, **facts: Any) -> None:
        self.graph.node.append(helper.make_node(op, inputs, [output], **facts))

    def constant(self, name: str, value: object) -> None:
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def wrong_rope_theta(artifact: Artifact) -> None:
    frequencies = 20000.0 ** (-np.arange(0, 16, 2) / 16)
    cos, sin = Rope(tuple(frequencies)).table(range(256))
    artifact.change("rope.cos", lambda _: cos)
    artifact.change("rope.sin", lambda _: sin)


def swapped_kv_heads(artifact: Artifact) -> None:
    def swap(rows: np.ndarray) -> np.ndarray:
        rows[64:96] = np.roll(rows[64:96], 16, axis=0)
        return rows

    for part in ("blocks", "scales", "bias"):
        artifact.change(f"{QK}.{part}", swap)


def missing_eps(artifact: Artifact) -> None:
    first = artifact.nodes("SimplifiedLayerNormalization")
    for node in [*first, *artifact.nodes("SkipSimplifiedLayerNormalization")]:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 0.0


def transposed_scales(artifact: Artifact) -> None:
    artifact.change(f"{QK}.scales", lambda scales: scales.T.reshape(scales.shape))


def wrong_position_in_decode(artifact: Artifact) -> None:
    """Prefill counts positions from 0, decode from 1: a shift of all would be invisible."""
    artifact.constant("bug.one", np.int64(1))
    for node in artifact.graph.node:
        for at, name in enumerate(node.input):
            if name == "positions.first":
                node.input[at] = "bug.first"
    artifact.insert("Equal", ["input_ids.size.1", "bug.one"], "bug.decode")
    artifact.insert("Cast", ["bug.decode"], "bug.shift", to=7)
    artifact.insert("Add", ["positions.first", "bug.shift"], "bug.now")
    # Only the rotation is late: the mask keeps its positions.
    artifact.insert("Sub", ["attention_mask.size.1", "input_ids.size.1"], "bug.first")
    artifact.insert("Add", ["positions.now", "bug.shift"], "bug.rope")
    for node in artifact.nodes("Gather"):
        if node.input[0] in ("rope.cos", "rope.sin"):
            node.input[1] = "bug.rope"
    _sort(artifact)


def the_future_is_visible(artifact: Artifact) -> None:
    artifact.constant("bug.far", np.int64(-1000))
    artifact.nodes("Less")[0].input[1] = "bug.far"


def the_token_itself_is_hidden(artifact: Artifact) -> None:
    artifact.constant("bug.one", np.int64(1))
    artifact.nodes("Less")[0].input[1] = "bug.one"


def swapped_gate_and_up(artifact: Artifact) -> None:
    for part in ("blocks", "scales"):
        artifact.change(f"{GATE_UP}.{part}", lambda rows: np.roll(rows, len(rows) // 2, axis=0))


def stale_cache(artifact: Artifact) -> None:
    """The step itself is right, but what it stores of its own values is nothing."""
    concat = next(node for node in artifact.nodes("Concat") if "present.0.value" in node.output)
    past, new = concat.input
    concat.output[0] = "bug.whole"
    for node in artifact.graph.node:
        for at, name in enumerate(node.input):
            if name == "present.0.value":
                node.input[at] = "bug.whole"
    artifact.constant("bug.zero", np.float32(0))
    artifact.insert("Mul", [new, "bug.zero"], "bug.nothing")
    artifact.insert("Concat", [past, "bug.nothing"], "present.0.value", axis=2)


def swapped_nibbles(artifact: Artifact) -> None:
    artifact.change(f"{QK}.blocks", lambda codes: (codes >> 4) | (codes << 4))


def codes_off_by_one(artifact: Artifact) -> None:
    artifact.change("model.layers.1.mlp.down_proj.blocks", lambda codes: codes ^ 0x01)


def interleaved_rope(artifact: Artifact) -> None:
    for attribute in artifact.nodes("GroupQueryAttention")[0].attribute:
        if attribute.name == "rotary_interleaved":
            attribute.i = 1


def wrong_attention_scale(artifact: Artifact) -> None:
    for attribute in artifact.nodes("GroupQueryAttention")[1].attribute:
        if attribute.name == "scale":
            attribute.f *= 1.01


def a_window_where_there_is_none(artifact: Artifact) -> None:
    for attribute in artifact.nodes("GroupQueryAttention")[0].attribute:
        if attribute.name == "local_window_size":
            attribute.i = 8


def forgotten_bias(artifact: Artifact) -> None:
    artifact.change(f"{QK}.bias", np.zeros_like)


def swapped_residual(artifact: Artifact) -> None:
    """The second half of layer 0 adds onto the embedding instead of the attention's sum."""
    adds = artifact.nodes("SkipSimplifiedLayerNormalization")
    adds[1].input[0] = adds[0].input[0]


FUSED = [
    wrong_rope_theta,
    swapped_kv_heads,
    missing_eps,
    transposed_scales,
    swapped_gate_and_up,
    swapped_nibbles,
    codes_off_by_one,
    interleaved_rope,
    wrong_attention_scale,
    a_window_where_there_is_none,
    forgotten_bias,
    swapped_residual,
]
PLAIN = [
    wrong_position_in_decode,
    the_future_is_visible,
    the_token_itself_is_hidden,
    stale_cache,
]


def _sort(artifact: Artifact) -> None:
    """Put appended nodes where their inputs are ready."""
    left = list(artifact.graph.node)
    known = {each.name for each in (*artifact.graph.input, *artifact.graph.initializer)} | {""}
    del artifact.graph.node[:]
    while left:
        ready = [node for node in left if set(node.input) <= known]
        for node in ready:
            known |= set(node.output)
        artifact.graph.node.extend(ready)
        left = [node for node in left if not set(node.output) <= known]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """A bundle with the fused attention, and one with the plain form."""
    found = {}
    for name in ("qwen2", "llama-narrow-heads"):
        folder = tmp_path_factory.mktemp(name)
        model = write_checkpoint(folder / "model", tiny_config(name))
        request = ort_request(model, "int4", folder / "out", context=256)
        found[name] = build(request, Silent()).folder
    return found


def lowering_failures(original: Path, tmp_path: Path, plant: Callable[[Artifact], None]):
    """Plant, renew the hashes (so that only the arithmetic can tell), and run parity."""
    folder = tmp_path / "bundle"
    shutil.copytree(original, folder)
    artifact = Artifact(folder)
    plant(artifact)
    _sort(artifact)
    artifact.save()
    old = manifest.read_manifest(folder)
    new = old.model_copy(update={"files": list_files(folder)})
    manifest.write_manifest(new, folder)
    try:
        lines = recheck(folder, None, None, Silent()).comparisons
    except BackendError as error:  # the runtime itself refuses, at the last slot of the context
        return [str(error)]
    return [why for line in lines if line.error == "lowering" for why in line.failures]


@pytest.mark.parametrize("name", ["qwen2", "llama-narrow-heads"])
def test_the_surgery_itself_changes_nothing(bundles, tmp_path, name):
    assert lowering_failures(bundles[name], tmp_path, lambda artifact: None) == []


@pytest.mark.parametrize("plant", FUSED, ids=lambda plant: plant.__name__)
def test_parity_catches(bundles, tmp_path, plant):
    assert lowering_failures(bundles["qwen2"], tmp_path, plant)


@pytest.mark.parametrize("plant", PLAIN, ids=lambda plant: plant.__name__)
def test_parity_catches_in_plain_attention(bundles, tmp_path, plant):
    assert lowering_failures(bundles["llama-narrow-heads"], tmp_path, plant)
