"""Models of LiteRT's schema (schema.ModelT), from and to the bytes of a flatbuffer."""

from __future__ import annotations

from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

IDENTIFIER = b"TFL3"


def model_of(content: bytes) -> Any:
    """The model in a flatbuffer."""
    return schema.ModelT.InitFromPackedBuf(content, 0)


def model_bytes(model: Any) -> bytes:
    """The flatbuffer of a model."""
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def text_of(name: Any) -> str:
    """A name of the schema as text; it may be bytes."""
    return name.decode() if isinstance(name, bytes) else str(name)


def drop_unread_buffers(model: Any) -> None:
    """Empty the buffers that no tensor and no metadata of a model refers to; none is renumbered."""
    read = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    read |= {each.buffer for each in model.metadata or ()}
    model.buffers = [
        buffer if index in read else schema.BufferT() for index, buffer in enumerate(model.buffers)
    ]
