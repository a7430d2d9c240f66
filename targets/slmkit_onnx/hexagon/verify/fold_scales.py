"""A graph as this processor runs it: both factors of a block's scales multiplied, once.

ONNX Runtime then reads 4-bit codes in a kernel of its own (MatMulNBits, which computes in float32)
instead of writing every weight out as float32 in each step. The product is the one in float32 that
DequantizeLinear computes.
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
from slmkit_onnx.hexagon.verify.htp_rounding import cut
from slmkit_onnx.hexagon.verify.strip_qdq import unrounded
from slmkit_onnx.sessions import cpu_session, load_error

Tensors = dict[str, TensorProto]


def exact_session(path: Path, rounded: bool = True) -> InferenceSession:
    """A graph's file on the CPU, its scales multiplied; ``rounded`` and cut as on HTP, or with
    float32 between its operations. Raises BackendError if it is damaged."""
    try:
        source = multiplied(path.read_bytes(), path.parent)
        source = cut(source) if rounded else unrounded(source)
    except (DecodeError, ValidationError, ValueError, OSError) as error:
        raise load_error(path.name, error) from None
    return cpu_session(source, path.parent, name=path.name)


def multiplied(source: bytes, folder: Path) -> bytes:
    """A model's message, with the numbers of each DequantizeLinear that gives scales in its place;
    the data of its factors lies in ``folder``."""
    model = onnx.load_model_from_string(source)
    tensors = {each.name: each for each in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if _gives_scales(node, tensors):
            scales = _product(node, tensors, folder)
            model.graph.initializer.append(numpy_helper.from_array(scales, node.output[0]))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return bytes(model.SerializeToString())


def _gives_scales(node: NodeProto, tensors: Tensors) -> bool:
    """Whether it turns the 8-bit multipliers of a weight into scales."""
    known = all(name in tensors for name in node.input)
    return (
        node.op_type == "DequantizeLinear"
        and known
        and tensors[node.input[0]].data_type == TensorProto.UINT8
    )


def _product(node: NodeProto, tensors: Tensors, folder: Path) -> Floats:
    """(multipliers - zeros) times a channel's scale. [K/g, N], [N], [N]"""
    multipliers, scales, zeros = (_numbers(tensors[name], folder) for name in node.input)
    found: Floats = (multipliers.astype(np.float32) - zeros.astype(np.float32)) * scales
    return found


def _numbers(tensor: TensorProto, folder: Path) -> Floats:
    if external_data_helper.uses_external_data(tensor):
        copy = TensorProto()
        copy.CopyFrom(tensor)
        external_data_helper.load_external_data_for_tensor(copy, str(folder))
        tensor = copy
    found: Floats = numpy_helper.to_array(tensor)
    return found
