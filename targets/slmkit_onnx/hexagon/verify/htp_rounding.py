"""Emulate HTP's rounding on the CPU: floor after RMSNorm, drop the low 16 bits of softmax times V.

HTP takes the next lower integer of a norm: half a step less on average, in every number alike, so
that all that is computed from it moves the same way. Of a sum of products of probabilities and
values, both of 16 bits, it drops the lowest 16 bits. The emulator does so to the last integer
(``tests/backends/hexagon/test_cut.py``), but of a large model it runs two layers only; the CPU
runs all.
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

DROPPED = 1 << 16  # of a sum of products of integers
Steps = list[tuple[str, float | None]]  # operations, one after the other, and their second inputs


def cut(source: bytes) -> bytes:
    """A model's message, with operations between what HTP cuts and its rounding."""
    model = onnx.load_model_from_string(source)
    graph = model.graph
    known = Known(
        {each.name: each for each in graph.initializer},
        {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"},
        {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"},
    )
    nodes = [new for node in graph.node for new in _followed(graph, node, known.steps(node))]
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class Known:
    """A graph's constants, and its nodes by the float value that they quantize or give."""

    tensors: Mapping[str, TensorProto]
    quantized: Mapping[str, NodeProto]
    given: Mapping[str, NodeProto]

    def steps(self, node: NodeProto) -> Steps:
        """What cuts a node's result."""
        name = node.output[0]
        if node.op_type == "RMSNormalization" and self._counts(node):
            return [("Sub", self._scale(self.quantized[name]) / 2)]
        if node.op_type == "MatMul" and self._mixes(node):
            unit = DROPPED * math.prod(self._scale(self.given[each]) for each in node.input)
            return [("Div", unit), ("Floor", None), ("Mul", unit)]
        return []

    def _counts(self, node: NodeProto) -> bool:
        """Whether it goes from integers to integers."""
        return node.input[0] in self.given and node.output[0] in self.quantized

    def _mixes(self, node: NodeProto) -> bool:
        """Whether it multiplies uint16 without an offset by int16. (With one, HTP rounds the
        offset's products apart: either error is about half a unit.)"""
        read = [self.given[each] for each in node.input if each in self.given]
        if len(read) < 2 or any(each.input[0] in self.tensors for each in read):
            return False  # a weight's
        probabilities, values = map(self._zero, read)
        return (
            probabilities.dtype == np.uint16
            and values.dtype == np.int16
            and not probabilities.any()
        )

    def _zero(self, node: NodeProto) -> NDArray[Any]:
        return numpy_helper.to_array(self.tensors[node.input[2]])

    def _scale(self, node: NodeProto) -> float:
        return float(numpy_helper.to_array(self.tensors[node.input[1]]))


def _followed(graph: GraphProto, node: NodeProto, steps: Steps) -> Iterator[NodeProto]:
    """A node, and operations from its result, under another name, to that of its own name."""
    name = at = node.output[0]
    if steps:
        node.output[0] = at = f"{name}.uncut"
    yield node
    for number, (op, by) in enumerate(steps, 1):
        inputs = [at]
        if by is not None:
            inputs.append(f"{name}.cut.{number}.by")
            graph.initializer.append(
                numpy_helper.from_array(np.asarray(by, np.float32), inputs[-1])
            )
        at = name if number == len(steps) else f"{name}.cut.{number}"
        yield helper.make_node(op, inputs, [at])
