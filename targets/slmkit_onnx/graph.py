"""An ONNX graph under construction: nodes, small constants inside, weights in external data.

Built with ``onnx.helper``: it is the format's own library, its protobuf bytes are stable, and
since weights never enter the protobuf, an intermediate representation would add nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from slmkit_onnx.data import Chunks, DataFile

OPSET = 21
IR_VERSION = 10
MICROSOFT = "com.microsoft"
TYPES: dict[str, int] = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int4": TensorProto.INT4,
    "uint16": TensorProto.UINT16,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
}


class Graph:
    """Collects nodes and tensors; ``model`` gives the file, ``data`` takes the weights' bytes."""

    def __init__(self, data: DataFile, opset: int = OPSET, ir_version: int = IR_VERSION) -> None:
        self.data = data
        self.opset = opset
        self.ir_version = ir_version
        self.nodes: list[Any] = []
        self.tensors: dict[str, TensorProto] = {}
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

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

    def input(self, name: str, dtype: str, shape: tuple[int | str, ...]) -> str:
        """Declare an input; returns its name."""
        self.inputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))
        return name

    def output(self, name: str, shape: tuple[int | str, ...], dtype: str = "float32") -> None:
        """Declare one more output."""
        self.outputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))

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
        size = -(-int(np.prod(shape)) * bits_of(dtype) // 8)
        place = self.data.place(content, size, chunks)
        tensor = TensorProto(name=name, data_type=TYPES[dtype], dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        where = {"location": self.data.name, "offset": place.offset, "length": place.size}
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
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=self.ir_version, producer_name="slmkit"
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


def bits_of(dtype: str) -> int:
    """Bits of one number of a type."""
    return 4 if dtype == "int4" else np.dtype(dtype).itemsize * 8
