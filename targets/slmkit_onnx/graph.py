"""An ONNX graph under construction: small constants in the model file, weights in external data.

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
    """Collect nodes and tensors; ``model`` returns the ONNX message, ``data`` holds the weights."""

    def __init__(self, data: DataFile, opset: int = OPSET, ir_version: int = IR_VERSION) -> None:
        self.data = data
        self.opset = opset
        self.ir_version = ir_version
        self.nodes: list[Any] = []
        self.tensors: dict[str, TensorProto] = {}
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def node(
        self, op: str, inputs: list[str], output: str, domain: str = "", **attributes: Any
    ) -> str:
        """Append a node with one output, which is also the node's name; return the output."""
        self.nodes.append(
            helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes)
        )
        return output

    def multi_output_node(
        self, op: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any
    ) -> None:
        """Append a node with several outputs; its name is that of the first output."""
        self.nodes.append(
            helper.make_node(op, inputs, outputs, name=outputs[0], domain=domain, **attributes)
        )

    def input(self, name: str, dtype: str, shape: tuple[int | str, ...]) -> str:
        """Declare a graph input; return its name."""
        self.inputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))
        return name

    def optional_input(
        self, name: str, dtype: str, shape: tuple[int | str, ...], default: NDArray[Any]
    ) -> str:
        """Declare a graph input that has the value ``default`` where none is given."""
        self.tensors[name] = numpy_helper.from_array(default, name)
        return self.input(name, dtype, shape)

    def output(self, name: str, shape: tuple[int | str, ...], dtype: str = "float32") -> None:
        """Declare a graph output."""
        self.outputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))

    def constant(self, name: str, value: Any, dtype: Any = np.int64) -> str:
        """Add a small constant to the model file; return its name. Equal names: equal values."""
        if name not in self.tensors:
            self.tensors[name] = numpy_helper.from_array(np.asarray(value, dtype=dtype), name)
        return name

    def external(
        self, name: str, dtype: str, shape: tuple[int, ...], content: str, chunks: Chunks
    ) -> str:
        """Add a tensor whose bytes lie in the data file; return its name.

        ``content``: key of the bytes in the data file; tensors of one key share the bytes.
        """
        if name in self.tensors:
            return name
        size = -(-int(np.prod(shape)) * bits_of(dtype) // 8)
        region = self.data.reserve(content, size, chunks)
        tensor = TensorProto(name=name, data_type=TYPES[dtype], dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        location = {"location": self.data.name, "offset": region.offset, "length": region.size}
        for key, value in location.items():
            tensor.external_data.add(key=key, value=str(value))
        self.tensors[name] = tensor
        return name

    def float_tensor(self, name: str, array: NDArray[np.float32]) -> str:
        """Add a float32 vector or table to the data file; return its name."""
        return self.external(name, "float32", array.shape, name, lambda: iter([array]))

    def model(self, name: str) -> ModelProto:
        """Build the ONNX message; nodes whose outputs are never read are left out."""
        self._drop_unused()
        graph = helper.make_graph(
            self.nodes, name, self.inputs, self.outputs, list(self.tensors.values())
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=self.ir_version, producer_name="slmkit"
        )

    def _drop_unused(self) -> None:
        """Remove dead nodes: interpreters may write several forms of a value."""
        live_names = {output.name for output in self.outputs}
        live_nodes = []
        for node in reversed(self.nodes):
            if live_names.intersection(node.output):
                live_names.update(node.input)
                live_nodes.append(node)
        self.nodes = live_nodes[::-1]
        self.tensors = {name: each for name, each in self.tensors.items() if name in live_names}


def bits_of(dtype: str) -> int:
    """Bits of one element of a NumPy type, or of int4."""
    return 4 if dtype == "int4" else np.dtype(dtype).itemsize * 8
