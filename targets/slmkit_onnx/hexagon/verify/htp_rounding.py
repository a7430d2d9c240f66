"""Emulate HTP's rounding: floor after RMSNorm, drop the low 16 bits of softmax times V.

HTP rounds the integer result of RMSNorm down: half a step less on average, in every number alike,
so that all results computed from it shift in the same direction. In the product of softmax
probabilities and values, both of 16 bits, it drops the low 16 bits of each sum. The emulator does
the same to the last integer (``tests/backends/hexagon/test_htp_rounding.py``), but of a large model
it runs two layers only; the CPU runs all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

DROPPED = 1 << 16  # HTP's sums of integer products lose everything below this
Step = tuple[str, float | None]  # an operation and its second input, if it has one


def emulate_htp_rounding(source: bytes) -> bytes:
    """Insert HTP's rounding after each quantized RMSNormalization and softmax-times-V product.

    ``source`` and the result are serialized ONNX models.
    """
    model = onnx.load_model_from_string(source)
    graph = model.graph
    index = GraphIndex(
        {each.name: each for each in graph.initializer},
        {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"},
        {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"},
    )
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes.extend(_append_steps(graph, node, index.rounding_steps(node)))
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class GraphIndex:
    """A graph's constants by name, and its Q/DQ nodes by their float tensor."""

    constants: Mapping[str, TensorProto]
    quantize: Mapping[str, NodeProto]  # by input
    dequantize: Mapping[str, NodeProto]  # by output

    def rounding_steps(self, node: NodeProto) -> list[Step]:
        """Operations that round a node's float result as HTP does; none for most nodes."""
        name = node.output[0]
        if node.op_type == "RMSNormalization" and self._is_quantized(node):
            return [("Sub", self._scale(self.quantize[name]) / 2)]
        if node.op_type == "MatMul" and self._is_softmax_times_v(node):
            unit = DROPPED * math.prod(self._scale(self.dequantize[each]) for each in node.input)
            return [("Div", unit), ("Floor", None), ("Mul", unit)]
        return []

    def _is_quantized(self, node: NodeProto) -> bool:
        """True if input and output are quantized."""
        return node.input[0] in self.dequantize and node.output[0] in self.quantize

    def _is_softmax_times_v(self, node: NodeProto) -> bool:
        """True if a uint16 activation with zero point 0 is multiplied by an int16 activation.

        With another zero point HTP rounds the products of the zero point separately: either error
        is about half a unit.
        """
        operands = [self.dequantize[each] for each in node.input if each in self.dequantize]
        if len(operands) < 2 or any(each.input[0] in self.constants for each in operands):
            return False  # the second operand is a weight
        probabilities, values = map(self._zero_point, operands)
        return (
            probabilities.dtype == np.uint16
            and values.dtype == np.int16
            and not probabilities.any()
        )

    def _zero_point(self, node: NodeProto) -> NDArray[Any]:
        return numpy_helper.to_array(self.constants[node.input[2]])

    def _scale(self, node: NodeProto) -> float:
        return float(numpy_helper.to_array(self.constants[node.input[1]]))


def _append_steps(graph: GraphProto, node: NodeProto, steps: list[Step]) -> Iterator[NodeProto]:
    """Yield the node under a new output name, then the steps; the last one has the old name."""
    name = current = node.output[0]
    if steps:
        node.output[0] = current = f"{name}.exact"
    yield node
    for number, (op, operand) in enumerate(steps, 1):
        inputs = [current]
        if operand is not None:
            inputs.append(f"{name}.rounding.{number}.operand")
            constant = np.asarray(operand, np.float32)
            graph.initializer.append(numpy_helper.from_array(constant, inputs[-1]))
        current = name if number == len(steps) else f"{name}.rounding.{number}"
        yield helper.make_node(op, inputs, [current])
