"""Scales multiplied before a graph is loaded: the same numbers, and no weight is written out."""

from __future__ import annotations

import collections
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from artifacts import emitted
from hexagon_artifacts import hexagon_job
from slmkit.errors import BackendError
from slmkit_onnx.hexagon.verify import float_weights
from slmkit_onnx.hexagon.verify.float_weights import COPIES, FloatWeights
from slmkit_onnx.hexagon.verify.fold_scales import fold_scales
from slmkit_onnx.hexagon.verify.on_cpu import open_on_cpu
from slmkit_onnx.sessions import cpu_session, session_options

GRAPH = "float.decode.onnx"


@pytest.fixture
def folder(tiny, tmp_path):
    emitted(replace(hexagon_job(tiny("qwen2"), tmp_path), debug=True), tmp_path / "hexagon")
    return tmp_path / "hexagon"  # no binary was compiled


def words(model: onnx.ModelProto) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in model.graph.node)


def random_inputs(session) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    return {
        each.name: random.standard_normal(each.shape).astype(np.float32)
        for each in session.get_inputs()
    }


@pytest.mark.parametrize("memory", [0, 10**9])
def test_a_graph_gives_the_same_logits(folder, monkeypatch, memory):
    monkeypatch.setattr(float_weights, "may_keep", lambda most: min(most, memory))
    weights = FloatWeights()
    plain, changed = cpu_session(folder / GRAPH, folder), open_on_cpu(folder / GRAPH, weights)
    assert len(weights.known) == (1 + 4 if memory else 0)
    given = random_inputs(plain)
    expected, got = (each.run(["logits"], given)[0] for each in (plain, changed))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_where_nothing_has_4_bits_there_is_room_for_one_copy_instead_of_three(
    tiny, tmp_path, monkeypatch
):
    job = replace(hexagon_job(tiny("qwen2"), tmp_path, "int8-per-channel"), debug=True)
    emitted(job, tmp_path / "hexagon")
    paths = [tmp_path / "hexagon" / f"float.{kind}.onnx" for kind in ("prefill", "decode")]

    def taken_from(weights):
        sources = [fold_scales(path.read_bytes(), path.parent) for path in paths]
        return [
            weights.take_from(source, path.parent)
            for source, path in zip(sources, paths, strict=True)
        ]

    plenty = FloatWeights()
    found = taken_from(plenty)
    assert [len(each.weights) for each in found] == [1 + 7 * job.spec.layers] * 2
    assert not any(each.in_place for each in found)
    size = sum(each.numpy().nbytes for each in plenty.known.values())
    monkeypatch.setattr(float_weights, "may_keep", lambda most: size)
    assert all(each.in_place for each in taken_from(FloatWeights()))
    monkeypatch.setattr(float_weights, "may_keep", lambda most: size - 1)
    some = taken_from(FloatWeights())  # the others stay codes, whose kernel packs them
    assert not any(each.in_place for each in some) and 0 < len(some[0].weights) < len(
        found[0].weights
    )
    monkeypatch.setattr(float_weights, "may_keep", lambda most: size)
    weights = FloatWeights()
    for path in paths:
        plain, changed = cpu_session(path, path.parent), open_on_cpu(path, weights)
        given = random_inputs(plain)
        expected, got = (each.run(["logits"], given)[0] for each in (plain, changed))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert weights.room == 0
    first = next(iter(weights.known.values())).numpy()
    first *= 0  # the sessions read these very numbers
    assert np.abs(changed.run(["logits"], given)[0] - expected).max() > 0.01


def test_every_weight_is_read_as_codes(folder, tmp_path):
    """By ORT's kernel: those of 4 bits, and those of 8 bits, which have no multipliers: the head,
    and v_proj and o_proj of both layers."""
    before = onnx.load(folder / GRAPH, load_external_data=False)
    source = fold_scales((folder / GRAPH).read_bytes(), folder)
    four_bit = [each for each in before.graph.initializer if each.name.endswith(".multipliers")]
    after = words(onnx.load_model_from_string(source))
    assert after["DequantizeLinear"] == words(before)["DequantizeLinear"] - len(four_bit)
    options = session_options(folder)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    optimized = words(onnx.load(tmp_path / "optimized.onnx", load_external_data=False))
    assert optimized["MatMulNBits"] == len(four_bit) + 1 + 4 > 10
    assert optimized["DequantizeLinear"] == 0


def test_graphs_share_their_8_bit_weights_as_floats_as_far_as_there_is_room(folder, monkeypatch):
    room = 4 * 3_000  # the four projections, not the head
    monkeypatch.setattr(float_weights, "may_keep", lambda most: COPIES * room)
    weights, taken = FloatWeights(), []
    for kind in ("prefill", "decode"):
        source = fold_scales((folder / f"float.{kind}.onnx").read_bytes(), folder)
        part = weights.take_from(source, folder)
        changed, found = part.source, part.weights
        assert not part.in_place  # others have 4 bits, and are packed
        taken.append(found)
        counts = [words(onnx.load_model_from_string(each)) for each in (source, changed)]
        assert counts[1]["DequantizeLinear"] == counts[0]["DequantizeLinear"] - len(found)
    assert taken[0].keys() == taken[1].keys()
    assert 0 < len(taken[0]) < 5
    assert all(taken[0][name] is taken[1][name] for name in taken[0])
    assert sum(each.numpy().nbytes for each in taken[0].values()) <= room


@pytest.mark.parametrize("damage", ["cut", "no data", "short data"])
def test_a_damaged_graph_is_a_sentence(folder, damage):
    if damage == "cut":
        (folder / GRAPH).write_bytes((folder / GRAPH).read_bytes()[:999])
    elif damage == "no data":
        (folder / "weights.data").unlink()
    else:
        (folder / "weights.data").write_bytes((folder / "weights.data").read_bytes()[:4096])
    with pytest.raises(BackendError, match=rf"cannot load {GRAPH}: ") as caught:
        open_on_cpu(folder / GRAPH, FloatWeights())
    assert "\n" not in caught.value.message
