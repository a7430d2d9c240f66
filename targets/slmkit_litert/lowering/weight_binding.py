"""Weights into a skeleton: inputs of its signatures become constants that hold the bundle's codes.

All signatures share one buffer per weight, and a tied head shares its table's. Buffers lie after
the flatbuffer (``Buffer.offset``, ``Buffer.size``), so that its 2 GB are no limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

Array = NDArray[Any]
IDENTIFIER = b"TFL3"
ALIGNMENT = 64  # bytes, of each buffer outside
INSIDE = 1024  # bytes: smaller buffers stay in the flatbuffer
FAR = 1 << 40  # an offset while the flatbuffer's own length is not known yet
CONNECTED_VERSION = 12  # of FULLY_CONNECTED, the first with 4 bits in groups
LOOKUP_VERSION = 4  # of EMBEDDING_LOOKUP, likewise
OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items()}


@dataclass(frozen=True)
class Bound:
    """One weight as the file holds it.

    ``scales``: None for float32, (N,) per channel, (N, groups) float16 for groups of ``group``.
    """

    type: int  # schema.TensorType
    shape: tuple[int, ...]
    data: Array  # packed bytes
    scales: Array | None = None
    group: int = 0


@dataclass(frozen=True)
class Outside:
    """A buffer after the flatbuffer; its bytes are made when they are written."""

    buffer: Any
    size: int
    make: Callable[[], Array]


class Binder:
    """A skeleton, open for its weights."""

    def __init__(self, skeleton: bytes) -> None:
        self.model = schema.ModelT.InitFromPackedBuf(skeleton, 0)
        self.outside: list[Outside] = []

    def bind(self, name: str, weight: Bound, label: str) -> None:
        """Make the signatures' input ``name`` a constant."""
        data = self._buffer(weight.data)
        grouped = weight.scales is not None and weight.scales.ndim == 2
        scales = self._buffer(weight.scales) if grouped and weight.scales is not None else 0
        for graph, signature in self._signatures():
            entry = next((each for each in signature.inputs if text_of(each.name) == name), None)
            if entry is None:
                continue
            signature.inputs = [each for each in signature.inputs if each is not entry]
            at = entry.tensorIndex
            graph.inputs = np.array([each for each in graph.inputs if each != at], np.int32)
            tensor = graph.tensors[at]
            tensor.buffer, tensor.name, tensor.type = data, label.encode(), weight.type
            tensor.quantization = self._quantization(graph, weight, scales, label)
            self._users(graph, at, weight)

    def write(self, path: Path) -> None:
        """The flatbuffer, then the large buffers."""
        write_model(self.model, self.outside, path)

    def _signatures(self) -> Iterator[tuple[Any, Any]]:
        for signature in self.model.signatureDefs:
            yield self.model.subgraphs[signature.subgraphIndex], signature

    def _buffer(self, array: Array) -> int:
        buffer = schema.BufferT()
        raw = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        if raw.nbytes < INSIDE:
            buffer.data = raw
        else:
            self.outside.append(Outside(buffer, raw.nbytes, lambda: raw))
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def _quantization(self, graph: Any, weight: Bound, scales: int, label: str) -> Any:
        if weight.scales is None:
            return None
        found = schema.QuantizationParametersT()
        found.quantizedDimension = 0
        if weight.scales.ndim == 1:
            found.scale = weight.scales.astype(np.float32)
            found.zeroPoint = np.zeros(len(weight.scales), np.int64)
            return found
        tensor = schema.TensorT()
        tensor.type, tensor.buffer = schema.TensorType.FLOAT16, scales
        tensor.shape, tensor.hasRank = np.array(weight.scales.shape, np.int32), True
        tensor.name = f"{label}.scales".encode()
        graph.tensors.append(tensor)
        found.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        found.details = schema.BlockwiseQuantizationT()
        found.details.scales, found.details.zeroPoints = len(graph.tensors) - 1, -1
        found.details.blockSize = weight.group
        return found

    def _users(self, graph: Any, at: int, weight: Bound) -> None:
        """A gather of rows becomes a lookup, which takes codes; linears say that theirs are new."""
        for operator in graph.operators:
            if at not in list(operator.inputs):
                continue
            code = self.model.operatorCodes[operator.opcodeIndex]
            if OPERATORS[code.builtinCode] == "GATHER":
                operator.opcodeIndex = self._lookup()
                operator.inputs = np.array([operator.inputs[1], at], np.int32)
                operator.builtinOptionsType, operator.builtinOptions = 0, None
            elif OPERATORS[code.builtinCode] == "FULLY_CONNECTED" and weight.scales is not None:
                code.version = max(code.version, CONNECTED_VERSION)

    def _lookup(self) -> int:
        for index, code in enumerate(self.model.operatorCodes):
            if code.builtinCode == schema.BuiltinOperator.EMBEDDING_LOOKUP:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.EMBEDDING_LOOKUP
        code.version = LOOKUP_VERSION
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1


def write_model(model: Any, outside: Sequence[Outside], path: Path) -> None:
    """A flatbuffer and the buffers after it."""
    for each in outside:
        each.buffer.offset, each.buffer.size = FAR, each.size
    at = _aligned(len(_packed(model)))
    for each in outside:
        each.buffer.offset = at
        at = _aligned(at + each.size)
    with open(path, "wb") as file:
        file.write(_packed(model))
        for each in outside:
            file.seek(each.buffer.offset)
            file.write(np.ascontiguousarray(each.make()).data)
        file.truncate(at)


def _packed(model: Any) -> bytes:
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def read_model(path: Path) -> tuple[Any, Array]:
    """The model of a written file, its large buffers not read, and the whole file, mapped."""
    whole = np.memmap(path, np.uint8, "r")
    end = _flatbuffer_end(whole)
    return schema.ModelT.InitFromPackedBuf(bytes(whole[:end]), 0), whole


def weights_of(model: Any, whole: Array) -> dict[str, Bound]:
    """The weights of a file by tensor name: its own bytes."""
    found: dict[str, Bound] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            label = text_of(tensor.name)
            if label.startswith(LABEL) and label not in found and not label.endswith(".scales"):
                found[label] = _bound(model, graph, tensor, whole)
    return {label.removeprefix(LABEL): weight for label, weight in found.items()}


def widen(path: Path, out: Path, floats: Callable[[Bound], Array]) -> None:
    """The same graph with every weight as float32: ``floats`` says what a weight means."""
    model, whole = read_model(path)
    outside: dict[str, Outside] = {}
    for name, weight in weights_of(model, whole).items():
        buffer = schema.BufferT()
        model.buffers.append(buffer)
        size = 4 * int(np.prod(weight.shape))
        outside[LABEL + name] = Outside(buffer, size, partial(floats, weight))
    indices = {label: model.buffers.index(each.buffer) for label, each in outside.items()}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if text_of(tensor.name) in indices:
                tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
                tensor.buffer = indices[text_of(tensor.name)]
    for buffer in model.buffers:  # what no tensor names any more
        if buffer.offset and not any(buffer is each.buffer for each in outside.values()):
            buffer.offset = buffer.size = 0
    write_model(model, list(outside.values()), out)


LABEL = "weight "  # before the tensor's name in the checkpoint: nothing of TensorFlow's begins so


def _bound(model: Any, graph: Any, tensor: Any, whole: Array) -> Bound:
    data, details = _bytes(model, tensor.buffer, whole), tensor.quantization
    shape = tuple(int(each) for each in tensor.shape)
    if details is None or (details.scale is None and details.details is None):
        return Bound(tensor.type, shape, data)
    if details.details is None:
        return Bound(tensor.type, shape, data, np.asarray(details.scale, np.float32))
    scales = graph.tensors[details.details.scales]
    halves = _bytes(model, scales.buffer, whole).view(np.float16).reshape(tuple(scales.shape))
    return Bound(tensor.type, shape, data, halves, details.details.blockSize)


def _bytes(model: Any, index: int, whole: Array) -> Array:
    buffer = model.buffers[index]
    if buffer.data is not None:
        return np.asarray(buffer.data, np.uint8)
    return whole[buffer.offset : buffer.offset + buffer.size]


def _flatbuffer_end(whole: Array) -> int:
    """Where the first buffer outside begins: the flatbuffer ends before it."""
    model = schema.Model.GetRootAs(whole, 0)
    offsets = [model.Buffers(at).Offset() for at in range(model.BuffersLength())]
    return min((each for each in offsets if each > 1), default=len(whole))


def _aligned(at: int) -> int:
    return -(-at // ALIGNMENT) * ALIGNMENT


def text_of(name: Any) -> str:
    """A name of the schema, which may be bytes."""
    return name.decode() if isinstance(name, bytes) else str(name)
