"""What HTP cuts off, on its emulator: the session on the processor gives the same integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from slmkit_onnx.hexagon.qnn.provider import qnn_session
from slmkit_onnx.hexagon.qnn.socs import SOCS
from slmkit_onnx.hexagon.verify.float_weights import FloatWeights
from slmkit_onnx.hexagon.verify.on_cpu import open_on_cpu
from slmkit_onnx.sessions import cpu_session

TYPES = {"uint16": TensorProto.UINT16, "int16": TensorProto.INT16}
Grid = tuple[str, float, int]


class Drawn:
    """A graph of one operation under construction: quantized inputs and output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def terms(self, name: str, grid: Grid) -> list[str]:
        kind, scale, zero = grid
        for label, value in (
            (f"{name}.scale", np.float32(scale)),
            (f"{name}.zero", np.array(zero, kind)),
        ):
            self.constants.append(numpy_helper.from_array(np.asarray(value), label))
        return [f"{name}.scale", f"{name}.zero"]

    def read(self, name: str, grid: Grid, shape: tuple[int, ...]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TYPES[grid[0]], shape))
        self.nodes.append(
            helper.make_node("DequantizeLinear", [name, *self.terms(name, grid)], [f"{name}.real"])
        )
        return f"{name}.real"

    def save(
        self, path: Path, op: str, inputs: list[str], grid: Grid, shape: tuple[int, ...], **facts
    ) -> Path:
        self.nodes.append(helper.make_node(op, inputs, ["result"], **facts))
        self.nodes.append(
            helper.make_node("QuantizeLinear", ["result", *self.terms("out", grid)], ["out"])
        )
        given = helper.make_tensor_value_info("out", TYPES[grid[0]], shape)
        graph = helper.make_graph(self.nodes, "one", self.inputs, [given], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
        onnx.save(model, str(path))
        return path


def outcomes(path: Path, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Of the emulator, of the processor as HTP cuts, and as ONNX rounds."""
    sessions = (
        qnn_session(path, SOCS["sm8650"]),
        open_on_cpu(path, FloatWeights()),
        cpu_session(path, path.parent),
    )
    return [session.run(["out"], given)[0].astype(int) for session in sessions]


def check(path: Path, given: dict[str, np.ndarray], most: int) -> None:
    """Cut as HTP cuts, nearly every integer is the emulator's, the others (float32's sums, just
    above or below a border) ``most`` beside it; rounded, many are not."""
    emulated, ours, plain = outcomes(path, given)
    assert abs(emulated - ours).max() <= most
    assert np.mean(emulated != ours) < 0.02
    assert np.mean(emulated != plain) > 0.2
    assert np.mean(emulated - plain) < -0.2  # always the same way


def test_a_norm_of_real_numbers_is_rounded(tmp_path):
    """In float16, to the nearest integer on average: nothing is cut here either."""
    random, drawn, shape = np.random.default_rng(4), Drawn(), (1, 32, 576)
    drawn.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    gain = random.uniform(0.8, 1.2, 576).astype(np.float32)
    drawn.constants.append(numpy_helper.from_array(gain, "gain"))
    grid = ("uint16", 8 / 65535, 32768)
    path = drawn.save(
        tmp_path / "real.onnx",
        "RMSNormalization",
        ["x", "gain"],
        grid,
        shape,
        axis=-1,
        epsilon=1e-6,
    )
    given = {"x": random.standard_normal(shape).astype(np.float32)}
    emulated, ours, plain = outcomes(path, given)
    assert np.array_equal(ours, plain)
    assert abs(np.mean(emulated - ours)) < 0.1  # steps; half a step if it were cut


@pytest.mark.parametrize("width", [64, 576])
def test_a_norm_takes_the_next_lower_integer(tmp_path, width):
    random, drawn, shape = np.random.default_rng(1), Drawn(), (1, 32, width)
    x = drawn.read("x", ("uint16", 2e-4, 30000), shape)
    gain = drawn.read("gain", ("uint16", 2e-5, 0), (width,))
    drawn.inputs.pop()
    numbers = random.integers(40000, 60000, width).astype(np.uint16)
    drawn.constants.append(numpy_helper.from_array(numbers, "gain"))
    path = drawn.save(
        tmp_path / "norm.onnx",
        "RMSNormalization",
        [x, gain],
        ("uint16", 2e-4, 33000),
        shape,
        axis=-1,
        epsilon=1e-5,
    )
    check(path, {"x": random.normal(30000, 7000, shape).clip(0, 65535).astype(np.uint16)}, 1)


@pytest.mark.parametrize("keys", [8, 64, 500])
def test_probabilities_times_values_lose_16_bits(tmp_path, keys):
    random, drawn, scales = np.random.default_rng(2), Drawn(), (1 / 65535, 1e-4)
    probabilities = drawn.read("probabilities", ("uint16", scales[0], 0), (1, 1, 32, keys))
    values = drawn.read("values", ("int16", scales[1], 0), (1, 1, keys, 32))
    grid = ("uint16", 15000 * scales[0] * scales[1], 32768)
    path = drawn.save(
        tmp_path / "product.onnx", "MatMul", [probabilities, values], grid, (1, 1, 32, 32)
    )
    some, others = (
        random.exponential(32000 / keys, (1, 1, 32, keys)),
        random.normal(0, 5000, (1, 1, keys, 32)),
    )
    integers = {
        "probabilities": some.clip(0, 65535).astype(np.uint16),
        "values": others.clip(-32768, 32767).astype(np.int16),
    }
    check(path, integers, most=5)  # 65536 / 15000
