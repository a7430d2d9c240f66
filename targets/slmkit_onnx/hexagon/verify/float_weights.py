"""8-bit weights as float32 constants, for graphs that run on this CPU.

ONNX Runtime's own kernel for them dequantizes the whole matrix for each call: a decoded token of a
model with an 8-bit head takes several times as long. The float32 numbers are those that
DequantizeLinear computes. The graphs of one runner share them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, external_data_helper
from onnxruntime import OrtValue

from slmkit.backend.memory import may_keep
from slmkit_onnx.hexagon.verify.fold_scales import to_array

MOST = 4 * 10**9  # bytes of float32 weights, with the copies that ONNX Runtime packs
COPIES = 3  # of a weight: the one that is shared, and a packed one for prefill and for decode
Weights = dict[str, OrtValue]  # by the name of DequantizeLinear's output
Tensors = Mapping[str, TensorProto]


@dataclass(frozen=True)
class Taken:
    """A serialized ONNX model whose 8-bit ``weights`` are initializers, and these.

    ``in_place``: the session does not pack them, for which there is no room. A step takes a tenth
    more time, and sums of another order. No other weight may need to be packed, as those of 4 bits
    do.
    """

    source: bytes
    weights: Weights
    in_place: bool


class FloatWeights:
    """The float32 weights of several graphs, as many as the process's memory has room for."""

    def __init__(self) -> None:
        self.room = 0
        self.in_place: set[tuple[str, ...]] = set()  # the places of those that are not packed
        self.known: dict[tuple[str, ...], OrtValue] = {}  # by the place of the codes
        self.forget()

    def forget(self) -> None:
        """Keep no weights: other graphs follow, which have the room."""
        self.known.clear()
        self.in_place.clear()
        self.room = may_keep(MOST)

    def take_from(self, source: bytes, folder: Path) -> Taken:
        """The graph with 8-bit weights as initializers, as many as there is room for.

        ``source``: a serialized ONNX model; ``folder`` holds the external data.
        """
        model = onnx.load_model_from_string(source)
        tensors = {each.name: each for each in model.graph.initializer}
        in_place = self._in_place(model, tensors)
        remaining, taken = [], {}
        for node in model.graph.node:
            weight = None
            if _is_8_bit(node, tensors):
                weight = self._weight(node, tensors, folder, 1 if in_place else COPIES)
            if weight is None:
                remaining.append(node)
            else:
                taken[node.output[0]] = weight
                model.graph.initializer.append(_placeholder(node, tensors))
        del model.graph.node[:]
        model.graph.node.extend(remaining)
        return Taken(bytes(model.SerializeToString()), taken, in_place)

    def _in_place(self, model: onnx.ModelProto, tensors: Tensors) -> bool:
        """Whether a graph's weights have to be read where they are, and can be."""
        if any(map(_is_4_bit, tensors.values())) or not _only_multiplies(model, tensors):
            return False
        codes = [tensors[each.input[0]] for each in model.graph.node if _is_8_bit(each, tensors)]
        new = [each for each in codes if _place(each) not in self.known]
        needed = sum(map(_float_size, new))
        if needed <= self.room < COPIES * needed:
            self.in_place |= {_place(each) for each in new}
        return any(_place(each) in self.in_place for each in codes)

    def _weight(
        self, node: NodeProto, tensors: Tensors, folder: Path, copies: int
    ) -> OrtValue | None:
        """The numbers of a weight; None if there is no room for so many copies of them."""
        place = _place(tensors[node.input[0]])
        if place not in self.known:
            size = copies * _float_size(tensors[node.input[0]])
            if size > self.room:
                return None
            self.room -= size
            codes, scales, zeros = (to_array(tensors[name], folder) for name in node.input)
            weight = codes.astype(np.float32)
            weight -= zeros.astype(np.float32)
            weight *= scales
            self.known[place] = OrtValue.ortvalue_from_numpy(weight)
        return self.known[place]


def _place(codes: TensorProto) -> tuple[str, ...]:
    """The place of a weight's codes in the external data."""
    return tuple(f"{each.key}={each.value}" for each in codes.external_data)


def _float_size(codes: TensorProto) -> int:
    """Bytes of a weight in float32."""
    return 4 * int(np.prod(codes.dims))


def _is_4_bit(tensor: TensorProto) -> bool:
    return tensor.data_type in (TensorProto.INT4, TensorProto.UINT4)


def _only_multiplies(model: onnx.ModelProto, tensors: Tensors) -> bool:
    """Whether products of matrices alone read the 8-bit weights: an optimizer that computed
    something else of them beforehand would read the codes' bytes as numbers."""
    nodes = model.graph.node
    weights = {each.output[0] for each in nodes if _is_8_bit(each, tensors)}
    return all(each.op_type == "MatMul" for each in nodes if weights.intersection(each.input))


def _is_8_bit(node: NodeProto, tensors: Tensors) -> bool:
    """Whether a node dequantizes the int8 codes of a matrix, which lie in the external data, with
    a scale for each column."""
    if node.op_type != "DequantizeLinear" or not all(name in tensors for name in node.input):
        return False
    codes = tensors[node.input[0]]
    axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
    return (
        codes.data_type == TensorProto.INT8
        and len(node.input) == 3
        and len(codes.dims) == 2
        and axis == 1
        and len(tensors[node.input[1]].dims) == 1
        and external_data_helper.uses_external_data(codes)
    )


def _placeholder(node: NodeProto, tensors: Tensors) -> TensorProto:
    """An initializer in the place of the node, whose numbers the session is given."""
    codes = tensors[node.input[0]]
    found = TensorProto(name=node.output[0], data_type=TensorProto.FLOAT, dims=codes.dims)
    found.data_location = TensorProto.EXTERNAL
    for each in codes.external_data:
        found.external_data.add(key=each.key, value=each.value)
    return found
