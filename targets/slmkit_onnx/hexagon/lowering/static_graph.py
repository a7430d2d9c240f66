"""Static graphs under construction: one per part, with Q/DQ around every value.

The same calls write two forms. With ranges every value is quantized: HTP runs this form. Without
ranges the graph stays in float32: calibration records its activations, and parity proves its
arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from slmkit.backend.partition import Part
from slmkit.ops import Floats
from slmkit_onnx.data import DataFile
from slmkit_onnx.graph import Graph
from slmkit_onnx.hexagon.lowering.encodings import Encoding, Ranges, asymmetric

OPSET, IR_VERSION = 23, 11  # RMSNormalization is of opset 23
HOST = -1  # the "part" of values that the host computes
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    ``name``: the float32 tensor before quantization. ``integers``: the quantized tensor, if there
    is one. ``range_key``: the value whose calibrated range applies. ``part``: index of the part it
    belongs to. ``unquantized``: float in both forms, so that HTP computes it in float16.
    """

    name: str
    shape: Shape
    range_key: str
    part: int
    encoding: Encoding | None = None
    integers: str = ""
    unquantized: bool = False

    @property
    def float_name(self) -> str:
        """The float32 tensor that the next op reads: dequantized, if there is an encoding."""
        return self.name if self.encoding is None else f"{self.name}.dq"


@dataclass
class StaticGraphs:
    """The parts of one token count, all under construction; values may cross from part to part."""

    data: DataFile
    parts: Sequence[Part]
    ranges: Ranges | None  # None: the float form
    exposed: list[str] | None = None  # for calibration: values become outputs, their names go here
    graphs: list[Graph] = field(init=False)
    current: int = 0  # index of the part that is written
    readable: list[set[str]] = field(init=False)  # of each part, names from outside that it has
    inputs: dict[str, Value] = field(default_factory=dict)  # of the whole model
    outputs: dict[str, Value] = field(default_factory=dict)  # of the whole model
    crossing: dict[str, Value] = field(default_factory=dict)  # from part to part

    def __post_init__(self) -> None:
        self.graphs = [Graph(self.data, OPSET, IR_VERSION) for _ in self.parts]
        self.readable = [set() for _ in self.parts]

    @property
    def graph(self) -> Graph:
        """The graph of the current part."""
        return self.graphs[self.current]

    def enter_unit(self, unit: int) -> None:
        """Continue in the part that holds a unit (a layer, or the head)."""
        holds = (at for at, part in enumerate(self.parts) if part.first <= unit <= part.last)
        self.current = next(holds)

    def op(
        self,
        op: str,
        inputs: Sequence[Value | str],
        name: str,
        shape: Shape,
        like: Value | None = None,
        encoding: Encoding | None = None,
        range_key: str = "",
        unquantized: bool = False,
        **attributes: Any,
    ) -> Value:
        """Append an op with one output and quantize the output.

        Its encoding is that of ``like``, or ``encoding``, or that of the calibrated range of
        ``range_key`` (default: its own name); ``unquantized``: none.
        """
        values = self.multi_output_op(
            op,
            inputs,
            [name],
            [shape],
            like,
            encoding,
            range_key,
            unquantized=unquantized,
            **attributes,
        )
        return values[0]

    def multi_output_op(
        self,
        op: str,
        inputs: Sequence[Value | str],
        names: list[str],
        shapes: Sequence[Shape],
        like: Value | None = None,
        encoding: Encoding | None = None,
        range_key: str = "",
        unquantized: bool = False,
        **attributes: Any,
    ) -> list[Value]:
        """Append an op with several outputs; the encoding as for ``op``."""
        unquantized = like.unquantized if like else unquantized
        operands = [self.read(each) if isinstance(each, Value) else each for each in inputs]
        self.graph.multi_output_node(op, operands, names, **attributes)
        values = []
        for name, shape in zip(names, shapes, strict=True):
            if like:
                key, chosen = like.range_key, like.encoding
            else:
                key = range_key or name
                chosen = None if unquantized else self._encoding_of(key, encoding)
            value = Value(name, shape, key, self.current, chosen, f"{name}.q", unquantized)
            self._quantize(value)
            self._dequantize(value)
            values.append(value)
            if key == name and encoding is None and not unquantized:
                self._expose(value)
        return values

    def _expose(self, value: Value) -> None:
        """For calibration, make a value with a range of its own a graph output."""
        if self.exposed is not None:
            self.exposed.append(value.name)
            self.graph.output(value.name, value.shape)

    def reshape(self, x: Value, shape: Shape) -> Value:
        """Reshape; the encoding is unchanged."""
        if x.shape == shape:
            return x
        label = "x".join(map(str, shape))
        target = self.graph.constant(f"shape.{label}", shape)
        return self.op("Reshape", [x, target], f"{x.name}.as.{label}", shape, like=x)

    def transpose(self, x: Value, order: tuple[int, ...]) -> Value:
        """Permute the axes; the encoding is unchanged."""
        shape = tuple(x.shape[axis] for axis in order)
        name = f"{x.name}.turned.{''.join(map(str, order))}"
        return self.op("Transpose", [x], name, shape, like=x, perm=order)

    def split(self, x: Value, widths: Sequence[int], at: str, axis: int = -1) -> list[Value]:
        """Split an axis into parts of these widths; the encoding is unchanged."""
        label, axis = ".".join(map(str, widths)), axis % len(x.shape)
        sizes = self.graph.constant(f"widths.{label}", list(widths))
        names = [f"{at}.part.{number}" for number in range(len(widths))]
        shapes = [(*x.shape[:axis], width, *x.shape[axis + 1 :]) for width in widths]
        return self.multi_output_op("Split", [x, sizes], names, shapes, like=x, axis=axis)

    def requantize(self, x: Value, name: str, encoding: Encoding | None) -> Value:
        """Quantize a value again with another encoding."""
        if self.ranges is None or encoding is None:
            return x
        new = Value(name, x.shape, x.range_key, self.current, encoding, f"{name}.q")
        self._quantize(new, self.read(x))
        self._dequantize(new)
        return new

    def read(self, value: Value) -> str:
        """The float32 tensor of a value in the current part.

        A value of another part, or of the host, becomes an input of the current part.
        """
        if value.part == self.current or value.float_name in self.readable[self.current]:
            return value.float_name
        if value.part != HOST:
            self._declare_output(self.graphs[value.part], value)
            self.crossing[value.name] = value
        self._declare_input(value)
        return value.float_name

    def input(
        self, name: str, shape: Shape, encoding: Encoding | None, integers: bool = False
    ) -> Value:
        """An input that the host provides: float32 that the graph quantizes, or ``integers``.

        Without an encoding it stays unquantized.
        """
        if name not in self.inputs:
            chosen = None if self.ranges is None else encoding
            quantized = name if integers else f"{name}.q"
            self.inputs[name] = Value(name, shape, name, HOST, chosen, quantized, not encoding)
        return self.inputs[name]

    def embedding_lookup(self, table: str, ids: str, shape: Shape, encoding: Encoding) -> Value:
        """Rows of a table inside the graph, stored with ``encoding``. ids [1, T] -> [1, T, D]"""
        self.graph.input(ids, "int32", shape[:2])
        self.inputs[ids] = Value(ids, shape[:2], ids, HOST)
        rows = Value(f"{table}.real", shape, table, self.current, encoding, table)
        self._dequantize(rows)
        return self.op("Gather", [rows, ids], "embedding", shape, like=rows, axis=0)

    def quantized_output(self, value: Value, name: str, encoding: Encoding | None) -> Value:
        """A graph output: the value as integers of an encoding of its own."""
        if self.ranges is None:
            self.graph.node("Identity", [self.read(value)], name)
            new = Value(name, value.shape, value.range_key, self.current)
        else:
            new = Value(f"{name}.real", value.shape, value.range_key, self.current, encoding, name)
            self._quantize(new, self.read(value))
            self._dequantize(new)
        self._declare_output(self.graph, new)
        self.outputs[name] = new
        return new

    def float_output(self, value: Value, name: str) -> None:
        """A graph output: the value as float32."""
        source = self.read(value)
        if value.encoding is None:
            self.graph.node("Identity", [source], name)
        else:
            inputs = [value.integers, *self._scale_and_zero_point(value.encoding)]
            self.graph.node("DequantizeLinear", inputs, name)
        self.graph.output(name, value.shape)
        self.outputs[name] = Value(name, value.shape, value.range_key, self.current)

    def constant(
        self, name: str, array: Floats, like: Value | None = None, unquantized: bool = False
    ) -> Value:
        """A constant operand of activations: uint16, or as ``like``, in the quantized form."""
        if self.ranges is None or unquantized:
            self.graph.float_tensor(name, array)
            return Value(name, array.shape, name, self.current, unquantized=unquantized)
        own = asymmetric((float(array.min()), float(array.max())))
        encoding = like.encoding if like and like.encoding else own
        value = Value(name, array.shape, name, self.current, encoding, f"{name}.q")
        self.graph.external(
            value.integers,
            encoding.dtype,
            array.shape,
            value.integers,
            lambda: iter([encoding.quantize(array)]),
        )
        self._dequantize(value)
        return value

    def _encoding_of(self, key: str, encoding: Encoding | None) -> Encoding | None:
        """``encoding``, or that of the calibrated range of ``key``; None in the float form."""
        if self.ranges is None:
            return None
        return encoding or asymmetric(self.ranges[key])

    def _declare_output(self, graph: Graph, value: Value) -> None:
        """Make a value an output of its part."""
        name = value.integers if value.encoding else value.name
        if name not in {output.name for output in graph.outputs}:
            graph.output(name, value.shape, value.encoding.dtype if value.encoding else "float32")

    def _declare_input(self, value: Value) -> None:
        """Make a value of another part, or of the host, an input of the current part."""
        quantized_here = value.part == HOST and value.integers != value.name
        if value.encoding is None or quantized_here:
            self.graph.input(value.name, "float32", value.shape)
            self._quantize(value)
        else:
            self.graph.input(value.integers, value.encoding.dtype, value.shape)
        self.readable[self.current].add(value.float_name)
        self._dequantize(value)

    def _quantize(self, value: Value, source: str = "") -> None:
        if value.encoding is not None:
            inputs = [source or value.name, *self._scale_and_zero_point(value.encoding)]
            self.graph.node("QuantizeLinear", inputs, value.integers)

    def _dequantize(self, value: Value) -> None:
        if value.encoding is not None:
            inputs = [value.integers, *self._scale_and_zero_point(value.encoding)]
            self.graph.node("DequantizeLinear", inputs, value.float_name)

    def _scale_and_zero_point(self, encoding: Encoding) -> list[str]:
        """Scale and zero point as constants, shared by equal encodings."""
        label = f"{encoding.dtype}.{encoding.scale:.9g}.{encoding.zero_point}"
        return [
            self.graph.constant(f"scale.{label}", encoding.scale, np.float32),
            self.graph.constant(f"zero.{label}", encoding.zero_point, encoding.dtype),
        ]
