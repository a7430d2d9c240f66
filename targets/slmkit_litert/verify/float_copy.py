"""A copy of a written .tflite with its weights dequantized, for parity in float32."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from slmkit_litert.contract import LABEL
from slmkit_litert.lowering.flatbuffer import text_of
from slmkit_litert.lowering.proof_graph import take_in
from slmkit_litert.lowering.weight_binding import (
    ExternalBuffer,
    read_model,
    weights_of,
    write_model,
)
from slmkit_litert.weights import dequantize


def write_float_copy(path: Path, out: Path, proof: Path | None) -> None:
    """Write the graphs of the .tflite at ``path`` with every weight in float32, and with the
    graph of ``proof`` (``slmkit_litert.lowering.proof_graph``) over the same weights."""
    model, content = read_model(path)
    external: dict[str, ExternalBuffer] = {}
    for name, weight in weights_of(model, content).items():
        buffer = schema.BufferT()
        model.buffers.append(buffer)
        size = 4 * int(np.prod(weight.shape))
        external[LABEL + name] = ExternalBuffer(buffer, size, partial(dequantize, weight))
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
    write_model(model, list(external.values()), out)
