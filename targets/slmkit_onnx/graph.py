"""An ONNX graph under construction: nodes, small constants inside, weights in external data.

Built with ``onnx.helper``: it is the format's own library, its protobuf bytes are stable, and
since weights never enter the protobuf, an intermediate representation would add nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

OPSET = 21
IR_VERSION = 10
MICROSOFT = "com.microsoft"
ALIGNMENT = 4096  # bytes: external tensors start on a page, so that they can be mapped
Chunks = Callable[[], Iterator[NDArray[Any]]]
TYPES: dict[str, int] = {
    "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A tensor's name in the graph, and its shape after [batch, T].

    ``flat``: the same heads side by side, [batch, T, heads * d], where that exists.
    ``part``: of which wider tensor this is a part, and the how many-th.
    """

    name: str
    shape: tuple[int, ...]
    flat: str = ""
    part: tuple[str, int] = ("", 0)


@dataclass(frozen=True)
class External:
    """Bytes of the data file: written once, named by one or more tensors."""

    size: int
    chunks: Chunks
    offset: int


class Graph:
    """Collects nodes and tensors; ``model`` and ``write_data`` give the two files."""

    def __init__(self, data_name: str) -> None:
        self.data_name = data_name
        self.nodes: list[Any] = []
        self.tensors: dict[str, TensorProto] = {}
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.externals: dict[str, External] = {}
        self.end = 0  # of the data file

    def node(self, op: str, inputs: list[str], output: str, domain: str = "", **facts: Any) -> str:
        """Append a node with one output, named like it; returns the output."""
        self.nodes.append(
            helper.make_node(op, inputs, [output], name=output, domain=domain, **facts)
        )
        return output

    def nodes_out(
        self, op: str, inputs: list[str], outputs: list[str], domain: str = "", **facts: Any
    ) -> None:
        """Append a node with several outputs, named like the first."""
        self.nodes.append(
            helper.make_node(op, inputs, outputs, name=outputs[0], domain=domain, **facts)
        )

    def output(self, name: str, shape: tuple[int | str, ...]) -> None:
        """Declare one more float32 output."""
        self.outputs.append(helper.make_tensor_value_info(name, TYPES["float32"], shape))

    def constant(self, name: str, value: Any, dtype: Any = np.int64) -> str:
        """A small constant inside the model file; the same name must mean the same value."""
        if name not in self.tensors:
            self.tensors[name] = numpy_helper.from_array(np.asarray(value, dtype=dtype), name)
        return name

    def external(
        self, name: str, dtype: str, shape: tuple[int, ...], content: str, chunks: Chunks
    ) -> str:
        """A tensor whose bytes lie in the data file; equal ``content`` shares the bytes."""
        if name in self.tensors:
            return name
        if content not in self.externals:
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            offset = -(-self.end // ALIGNMENT) * ALIGNMENT
            self.externals[content] = External(size, chunks, offset)
            self.end = offset + size
        place = self.externals[content]
        tensor = TensorProto(name=name, data_type=TYPES[dtype], dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        where = {"location": self.data_name, "offset": place.offset, "length": place.size}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))
        self.tensors[name] = tensor
        return name

    def floats(self, name: str, array: NDArray[np.float32]) -> str:
        """A float32 vector or table in the data file."""
        return self.external(name, "float32", array.shape, name, lambda: iter([array]))

    def model(self, name: str) -> ModelProto:
        """The model file's message."""
        self._drop_unused()
        graph = helper.make_graph(
            self.nodes, name, self.inputs, self.outputs, list(self.tensors.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="slmkit"
        )

    def _drop_unused(self) -> None:
        """Remove nodes whose outputs nobody reads: interpreters may offer several forms."""
        wanted = {output.name for output in self.outputs}
        kept = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.tensors = {name: each for name, each in self.tensors.items() if name in wanted}

    def write_data(self, path: Path, progress: Callable[[int, int], None]) -> None:
        """Stream every external tensor into the data file, one chunk at a time."""
        done = 0
        with open(path, "wb") as file:
            for place in self.externals.values():
                file.seek(place.offset)
                for chunk in place.chunks():
                    file.write(np.ascontiguousarray(chunk).data)
                    done += chunk.nbytes
                    progress(done, self.end)
                if file.tell() != place.offset + place.size:
                    raise ValueError(f"wrote {file.tell()} bytes, planned {place}")
            file.truncate(self.end)
