"""Copies of a written .tflite for parity: one in float32, one with the graph of the proof."""

from __future__ import annotations

from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from slmkit_litert.contract import LABEL
from slmkit_litert.lowering.flatbuffer import text_of
from slmkit_litert.lowering.proof_graph import take_in
from slmkit_litert.lowering.weight_binding import (
    Array,
    ExternalBuffer,
    StoredWeight,
    look_up,
    read_model,
    read_quantized,
    weights_of,
    write_model,
)
from slmkit_litert.verify.parts import PartsPlan, keep_part
from slmkit_litert.weights import dequantized


def float_bytes(path: Path) -> dict[str, int]:
    """Bytes in float32 of each weight of the .tflite at ``path``, by its tensor's name."""
    return {name: _float_size(each) for name, each in weights_of(*read_model(path)).items()}


def stored_bytes(path: Path) -> dict[str, int]:
    """Bytes of each weight of the .tflite at ``path`` as it is stored, by its tensor's name."""
    return {name: each.data.nbytes for name, each in weights_of(*read_model(path)).items()}


def write_float_copy(
    path: Path, out: Path, proof: Path | None, plan: PartsPlan | None = None, number: int = 0
) -> None:
    """Write the graphs of the .tflite at ``path`` with every weight in float32, and with the
    graph of ``proof`` (``slmkit_litert.lowering.proof_graph``) over the same weights.

    ``plan``, ``number``: that part alone of all graphs; without a plan they are whole.
    """
    model, content = read_model(path)
    external: dict[str, ExternalBuffer] = {}
    for name, weight in weights_of(model, content).items():
        buffer = schema.BufferT()
        model.buffers.append(buffer)
        external[LABEL + name] = ExternalBuffer(
            buffer, _float_size(weight), partial(dequantized, weight)
        )
    indices = {label: model.buffers.index(item.buffer) for label, item in external.items()}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if text_of(tensor.name) in indices:
                tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
                tensor.buffer = indices[text_of(tensor.name)]
    for buffer in model.buffers:  # those of the codes, which no tensor uses any more
        if buffer.offset and not any(buffer is item.buffer for item in external.values()):
            buffer.offset = buffer.size = 0
    if proof is not None:
        take_in(model, proof.read_bytes(), indices)
    if plan is not None:
        keep_part(model, plan, number)
    kept = {id(buffer) for buffer in model.buffers}
    write_model(model, [each for each in external.values() if id(each.buffer) in kept], out)


def _float_size(weight: StoredWeight) -> int:
    return 4 * int(np.prod(weight.shape))


def write_proof_copy(path: Path, out: Path, proof: Path) -> None:
    """Write the graph of ``proof`` alone, over the weights of the .tflite at ``path`` as they are
    stored there."""
    model, content = read_model(path)
    _take_in_stored(model, proof)
    signature = model.signatureDefs[-1]
    model.subgraphs, model.signatureDefs = [model.subgraphs[-1]], [signature]
    signature.subgraphIndex = 0
    _write_stored(model, content, out)


def write_stored_part(
    path: Path, out: Path, proof: Path | None, plan: PartsPlan, number: int
) -> None:
    """Write one part of all graphs of the .tflite at ``path``, and of that of ``proof``, over the
    weights as they are stored."""
    model, content = read_model(path)
    if proof is not None:
        _take_in_stored(model, proof)
    keep_part(model, plan, number)
    _write_stored(model, content, out)


def _take_in_stored(model: Any, proof: Path) -> None:
    """Add the graph of ``proof`` over the weights as the model stores them."""
    stored = {
        text_of(each.name): (each, graph) for graph in model.subgraphs for each in graph.tensors
    }
    weights = {label: each for label, each in stored.items() if label.startswith(LABEL)}
    graph = take_in(
        model, proof.read_bytes(), {label: tensor.buffer for label, (tensor, _) in weights.items()}
    )
    for index, tensor in enumerate(list(graph.tensors)):
        if text_of(tensor.name) in weights:
            _store_alike(model, graph, index, *weights[text_of(tensor.name)])


def _write_stored(model: Any, content: Array, out: Path) -> None:
    """Write a model whose external buffers are those of the file with this content."""
    external = [
        ExternalBuffer(buffer, buffer.size, partial(_bytes, content, buffer.offset, buffer.size))
        for buffer in model.buffers
        if buffer.offset
    ]
    write_model(model, external, out)


def _store_alike(model: Any, graph: Any, index: int, stored: Any, source: Any) -> None:
    """Give the weight at ``index`` of a graph the type and the scales of the tensor ``stored``
    of the graph ``source``."""
    tensor, quantization = graph.tensors[index], copy(stored.quantization)
    tensor.type, tensor.quantization = stored.type, quantization
    if quantization is None:
        look_up(model, graph, index)
        return
    if quantization.details is not None:  # scales of groups are a tensor of the graph
        quantization.details = copy(quantization.details)
        graph.tensors.append(copy(source.tensors[quantization.details.scales]))
        quantization.details.scales = len(graph.tensors) - 1
    read_quantized(model, graph, index)


def _bytes(content: Array, offset: int, size: int) -> list[Array]:
    return [content[offset : offset + size]]
