"""Remove interior Q/DQ pairs; keep those at the graph's inputs and outputs.

When a layer runs on the emulator, the other layers run so: values between their operations stay
float32. With rounding in them, two runs would differ by half of all roundings, and what the
emulator adds could not be seen.
"""

from __future__ import annotations

from collections import defaultdict

import onnx
from onnx import NodeProto, helper


def strip_qdq(source: bytes) -> bytes:
    """Replace each interior QuantizeLinear and DequantizeLinear pair by an Identity.

    ``source`` and the result are serialized ONNX models.
    """
    model = onnx.load_model_from_string(source)
    pairs = _interior_pairs(model)
    nodes = [_bypass(node, pairs) for node in model.graph.node if node.output[0] not in pairs]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def _interior_pairs(model: onnx.ModelProto) -> dict[str, str]:
    """Quantized tensor -> its float source, for tensors that only DequantizeLinear reads."""
    readers: dict[str, set[str]] = defaultdict(set)
    for node in model.graph.node:
        for name in node.input:
            readers[name].add(node.op_type)
    outputs = {output.name for output in model.graph.output}
    return {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
        and node.output[0] not in outputs
        and readers[node.output[0]] == {"DequantizeLinear"}
    }


def _bypass(node: NodeProto, pairs: dict[str, str]) -> NodeProto:
    """An Identity of the float source for the DequantizeLinear of a pair, else the node itself."""
    if node.op_type != "DequantizeLinear" or node.input[0] not in pairs:
        return node
    return helper.make_node("Identity", [pairs[node.input[0]]], node.output)
