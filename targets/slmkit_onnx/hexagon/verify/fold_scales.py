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
from google.protobuf.message import DecodeError
from onnx import NodeProto, TensorProto, external_data_helper, numpy_helper
from onnx.checker import ValidationError
from onnxruntime import InferenceSession

from slmkit.ops import Floats
from slmkit_onnx.hexagon.verify.htp_rounding import emulate_htp_rounding
from slmkit_onnx.hexagon.verify.strip_qdq import strip_qdq
from slmkit_onnx.sessions import cpu_session, load_error

Tensors = dict[str, TensorProto]


def open_on_cpu(path: Path, htp_rounding: bool = True) -> InferenceSession:
    """Load a graph's file on the CPU, with its scales folded.

    ``rounded``: with HTP's rounding; otherwise float32 between the operations. Raises BackendError
    if the file or its weights are damaged.
    """
    try:
        source = fold_scales(path.read_bytes(), path.parent)
        source = emulate_htp_rounding(source) if htp_rounding else strip_qdq(source)
    except (DecodeError, ValidationError, ValueError, OSError) as error:
        raise load_error(path.name, error) from None
    return cpu_session(source, path.parent, name=path.name, arena=False)


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
    multipliers, channel, zeros = (_to_array(tensors[name], folder) for name in node.input)
    scales: Floats = (multipliers.astype(np.float32) - zeros.astype(np.float32)) * channel
    return scales


def _to_array(tensor: TensorProto, folder: Path) -> Floats:
    """A tensor as an array, read from the external data if it lies there."""
    if external_data_helper.uses_external_data(tensor):
        copy = TensorProto()
        copy.CopyFrom(tensor)
        external_data_helper.load_external_data_for_tensor(copy, str(folder))
        tensor = copy
    array: Floats = numpy_helper.to_array(tensor)
    return array
