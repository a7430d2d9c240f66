"""Binding of weights to a graph template, and reading them back from a written .tflite.

The template's weight inputs become constants that hold the bundle's codes. All signatures share one
buffer per weight, and a tied head shares the embedding's. Large buffers follow the flatbuffer
(``Buffer.offset``, ``Buffer.size``), so its limit of 2 GB does not apply to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from slmkit_litert.contract import LABEL
from slmkit_litert.lowering.flatbuffer import model_bytes, model_of, text_of

Array = NDArray[Any]
ALIGNMENT = 64  # bytes, of each external buffer
INLINE_LIMIT = 1024  # bytes: smaller buffers stay inside the flatbuffer
PLACEHOLDER_OFFSET = 1 << 40  # while the length of the flatbuffer is not yet known
FULLY_CONNECTED_VERSION = 12  # the first that takes blockwise int4 weights
EMBEDDING_LOOKUP_VERSION = 4  # likewise
OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items()}


@dataclass(frozen=True)
class StoredWeight:
    """One weight as a .tflite stores it.

    ``scales``: None for float32; (N,) float32 per channel; (N, groups) float16 for groups of
    ``group_size`` inputs.
    """

    type: int  # schema.TensorType
    shape: tuple[int, ...]  # (N, K), or (N,) of a vector
    data: Array  # packed bytes
    scales: Array | None = None
    group_size: int = 0


@dataclass(frozen=True)
class ExternalBuffer:
    """A buffer after the flatbuffer; ``load`` returns its content when it is written, in blocks."""

    buffer: Any  # schema.BufferT
    size: int  # bytes
    load: Callable[[], Iterable[Array]]


class WeightBinder:
    """A graph template whose weight inputs are replaced by constants, one by one."""

    def __init__(self, template: bytes) -> None:
        self.model = model_of(template)
        self.external: list[ExternalBuffer] = []

    def bind(self, name: str, encode: Callable[[], StoredWeight], label: str) -> None:
        """Replace the input ``name`` of every signature by a constant tensor named ``label``.

        ``encode`` is called once more when the file is written: no codes are kept till then.
        """
        weight = encode()
        data = self._add_buffer(weight.data, lambda: encode().data)
        scales, of_groups = 0, weight.scales
        if of_groups is not None and of_groups.ndim == 2:
            scales = self._add_buffer(of_groups, lambda: of_groups)
        for graph, signature in self._signatures():
            entry = next((item for item in signature.inputs if text_of(item.name) == name), None)
            if entry is None:
                continue
            signature.inputs = [item for item in signature.inputs if item is not entry]
            index = entry.tensorIndex
            graph.inputs = np.array([other for other in graph.inputs if other != index], np.int32)
            tensor = graph.tensors[index]
            tensor.buffer, tensor.name, tensor.type = data, label.encode(), weight.type
            tensor.quantization = self._quantization(graph, weight, scales, label)
            if weight.scales is not None:
                read_quantized(self.model, graph, index)
            else:
                look_up(self.model, graph, index)

    def write(self, path: Path) -> None:
        """Write the flatbuffer and the external buffers."""
        write_model(self.model, self.external, path)

    def _signatures(self) -> Iterator[tuple[Any, Any]]:
        """Graph and signature of each signature."""
        for signature in self.model.signatureDefs:
            yield self.model.subgraphs[signature.subgraphIndex], signature

    def _add_buffer(self, array: Array, load: Callable[[], Array]) -> int:
        """Add a buffer with the bytes of an array, which ``load`` makes again; return its index."""
        buffer = schema.BufferT()
        if array.nbytes < INLINE_LIMIT:
            buffer.data = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        else:
            self.external.append(ExternalBuffer(buffer, array.nbytes, lambda: [load()]))
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def _quantization(self, graph: Any, weight: StoredWeight, scales: int, label: str) -> Any:
        """Quantization parameters of a weight; ``scales``: index of the buffer of its groups'."""
        if weight.scales is None:
            return None
        parameters = schema.QuantizationParametersT()
        parameters.quantizedDimension = 0
        if weight.scales.ndim == 1:
            parameters.scale = weight.scales.astype(np.float32)
            parameters.zeroPoint = np.zeros(len(weight.scales), np.int64)
            return parameters
        tensor = schema.TensorT()
        tensor.type, tensor.buffer = schema.TensorType.FLOAT16, scales
        tensor.shape, tensor.hasRank = np.array(weight.scales.shape, np.int32), True
        tensor.name = f"{label}.scales".encode()
        graph.tensors.append(tensor)
        parameters.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        parameters.details = schema.BlockwiseQuantizationT()
        parameters.details.scales, parameters.details.zeroPoints = len(graph.tensors) - 1, -1
        parameters.details.blockSize = weight.group_size
        return parameters


def read_quantized(model: Any, graph: Any, index: int) -> None:
    """Let the operators of a graph read the weight at ``index`` as codes: a row is looked up, and
    FULLY_CONNECTED has the version that takes blockwise int4, for every quantized weight."""
    look_up(model, graph, index)
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        if index in list(operator.inputs) and OPERATORS[code.builtinCode] == "FULLY_CONNECTED":
            code.version = max(code.version, FULLY_CONNECTED_VERSION)


def look_up(model: Any, graph: Any, index: int) -> None:
    """Replace GATHER, which does not take quantized rows, by EMBEDDING_LOOKUP, where a graph reads
    rows of the weight at ``index``."""
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        if index in list(operator.inputs) and OPERATORS[code.builtinCode] == "GATHER":
            operator.opcodeIndex = _embedding_lookup(model)
            operator.inputs = np.array([operator.inputs[1], index], np.int32)
            operator.builtinOptionsType, operator.builtinOptions = 0, None


def _embedding_lookup(model: Any) -> int:
    """Index of the operator code EMBEDDING_LOOKUP, which is added if it is missing."""
    lookup = schema.BuiltinOperator.EMBEDDING_LOOKUP
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == lookup:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = lookup
    code.version = EMBEDDING_LOOKUP_VERSION
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def write_model(model: Any, external: Sequence[ExternalBuffer], path: Path) -> None:
    """Write a model (schema.ModelT): the flatbuffer, then its external buffers, aligned."""
    for item in external:
        item.buffer.offset, item.buffer.size = PLACEHOLDER_OFFSET, item.size
    end = _align(len(model_bytes(model)))
    for item in external:
        item.buffer.offset = end
        end = _align(end + item.size)
    with open(path, "wb") as file:
        file.write(model_bytes(model))
        for item in external:
            file.seek(item.buffer.offset)
            for block in item.load():
                file.write(np.ascontiguousarray(block).data)
        file.truncate(end)


def read_model(path: Path) -> tuple[Any, Array]:
    """The model of a written file (schema.ModelT), and the file's bytes, mapped into memory.

    External buffers are not read.
    """
    content = np.memmap(path, np.uint8, "r")
    end = _flatbuffer_end(content)
    return model_of(bytes(content[:end])), content


def weights_of(model: Any, content: Array) -> dict[str, StoredWeight]:
    """The weights of a file by tensor name, as ``read_model`` returned it; nothing is copied."""
    weights: dict[str, StoredWeight] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            label = text_of(tensor.name)
            if label.startswith(LABEL) and label not in weights and not label.endswith(".scales"):
                weights[label] = _read_weight(model, graph, tensor, content)
    return {label.removeprefix(LABEL): weight for label, weight in weights.items()}


def _read_weight(model: Any, graph: Any, tensor: Any, content: Array) -> StoredWeight:
    """The weight of a bound tensor, by its type and quantization parameters."""
    data, quantization = _buffer_bytes(model, tensor.buffer, content), tensor.quantization
    shape = tuple(int(length) for length in tensor.shape)
    if quantization is None or (quantization.scale is None and quantization.details is None):
        return StoredWeight(tensor.type, shape, data)
    if quantization.details is None:
        scales = np.asarray(quantization.scale, np.float32)
        return StoredWeight(tensor.type, shape, data, scales)
    scales_tensor = graph.tensors[quantization.details.scales]
    scale_bytes = _buffer_bytes(model, scales_tensor.buffer, content)
    scales = scale_bytes.view(np.float16).reshape(tuple(scales_tensor.shape))
    return StoredWeight(tensor.type, shape, data, scales, quantization.details.blockSize)


def _buffer_bytes(model: Any, index: int, content: Array) -> Array:
    """The bytes of a buffer, inside the flatbuffer or external."""
    buffer = model.buffers[index]
    if buffer.data is not None:
        return np.asarray(buffer.data, np.uint8)
    return content[buffer.offset : buffer.offset + buffer.size]


def _flatbuffer_end(content: Array) -> int:
    """Offset of the first external buffer, or the file's length: the flatbuffer ends before it."""
    model = schema.Model.GetRootAs(content, 0)
    offsets = [model.Buffers(index).Offset() for index in range(model.BuffersLength())]
    return min((offset for offset in offsets if offset > 1), default=len(content))


def _align(offset: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-offset // ALIGNMENT) * ALIGNMENT
