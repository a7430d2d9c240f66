"""Fold two-level scales so that ONNX Runtime selects MatMulNBits.

The two factors of a 4-bit weight's scales, multipliers and channel scale, are multiplied once, when
a graph is loaded. ONNX Runtime then reads the codes in its own kernel (MatMulNBits, which computes
in float32) instead of writing every weight out as float32 in each step. The folded scales are the
float32 products that DequantizeLinear computes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, external_data_helper, numpy_helper

from slmkit.ops import Floats

Tensors = dict[str, TensorProto]


def fold_scales(source: bytes, folder: Path) -> bytes:
    """Replace each DequantizeLinear that computes scales by the scales as a constant.

    ``source`` and the result are serialized ONNX models; ``folder`` holds the external data.
    """
    model = onnx.load_model_from_string(source)
    tensors = {each.name: each for each in model.graph.initializer}
    remaining = []
    for node in model.graph.node:
        if _computes_scales(node, tensors):
            scales = _scales(node, tensors, folder)
            model.graph.initializer.append(numpy_helper.from_array(scales, node.output[0]))
        else:
            remaining.append(node)
    del model.graph.node[:]
    model.graph.node.extend(remaining)
    return bytes(model.SerializeToString())


def _computes_scales(node: NodeProto, tensors: Tensors) -> bool:
    """True if the node dequantizes the uint8 multipliers of a weight."""
    return (
        node.op_type == "DequantizeLinear"
        and all(name in tensors for name in node.input)
        and tensors[node.input[0]].data_type == TensorProto.UINT8
    )


def _scales(node: NodeProto, tensors: Tensors, folder: Path) -> Floats:
    """(multipliers - zero points) * channel scales, float32. [K/g, N], [N], [N] -> [K/g, N]"""
    multipliers, channel, zeros = (to_array(tensors[name], folder) for name in node.input)
    scales: Floats = (multipliers.astype(np.float32) - zeros.astype(np.float32)) * channel
    return scales


def to_array(tensor: TensorProto, folder: Path) -> Floats:
    """A tensor as an array, read from the external data if it lies there."""
    if external_data_helper.uses_external_data(tensor):
        copy = TensorProto()
        copy.CopyFrom(tensor)
        external_data_helper.load_external_data_for_tensor(copy, str(folder))
        tensor = copy
    array: Floats = numpy_helper.to_array(tensor)
    return array
