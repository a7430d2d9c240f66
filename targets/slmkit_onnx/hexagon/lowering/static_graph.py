"""Static graphs under construction: one per part, with Q/DQ around every value.

The same calls write two forms. With ranges, every value is quantized: what HTP runs. Without, the
graph stays in float32: what calibration listens to, and what proves the graph's arithmetic.
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
HOST = -1  # the part that makes graph inputs


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    ``name``: as float32, before it is quantized. ``integers``: the quantized tensor, if there is
    one. ``key``: the value whose calibrated range holds for it. ``part``: who makes it. ``real``:
    never quantized, so that HTP computes it in float16.
    """

    name: str
    shape: tuple[int, ...]
    key: str
    part: int
    encoding: Encoding | None = None
    integers: str = ""
    real: bool = False

    @property
    def read_as(self) -> str:
        """What the next op reads."""
        return self.name if self.encoding is None else f"{self.name}.dq"


@dataclass
class StaticGraphs:
    """The parts of one token count, all under construction; values may cross from part to part."""

    data: DataFile
    parts: Sequence[Part]
    ranges: Ranges | None  # None: the float form
    exposed: list[str] | None = None  # calibration: values become outputs, and are listed here
    graphs: list[Graph] = field(init=False)
    current: int = 0
    known: list[set[str]] = field(init=False)  # what a part's nodes can read
    inputs: dict[str, Value] = field(default_factory=dict)  # of the whole model
    outputs: dict[str, Value] = field(default_factory=dict)  # of the whole model
    crossing: dict[str, Value] = field(default_factory=dict)  # from part to part

    def __post_init__(self) -> None:
        self.graphs = [Graph(self.data, OPSET, IR_VERSION) for _ in self.parts]
        self.known = [set() for _ in self.parts]

    @property
    def graph(self) -> Graph:
        """The part that is being written."""
        return self.graphs[self.current]

    def enter(self, unit: int) -> None:
        """Go on to the part of a unit."""
        holds = (at for at, part in enumerate(self.parts) if part.first <= unit <= part.last)
        self.current = next(holds)

    def op(
        self,
        op: str,
        inputs: Sequence[Value | str],
        name: str,
        shape: tuple[int, ...],
        like: Value | None = None,
        fixed: Encoding | None = None,
        key: str = "",
        real: bool = False,
        **facts: Any,
    ) -> Value:
        """One op with one output: as ``like``, encoded as ``fixed`` or calibrated, or ``real``."""
        return self.ops(op, inputs, [name], shape, like, fixed, key, real=real, **facts)[0]

    def ops(
        self,
        op: str,
        inputs: Sequence[Value | str],
        names: list[str],
        shape: tuple[int, ...],
        like: Value | None = None,
        fixed: Encoding | None = None,
        key: str = "",
        shapes: Sequence[tuple[int, ...]] = (),
        real: bool = False,
        **facts: Any,
    ) -> list[Value]:
        """One op with several outputs, of one shape or of ``shapes``."""
        real = like.real if like else real
        read = [self.read(each) if isinstance(each, Value) else each for each in inputs]
        self.graph.multi_output_node(op, read, names, **facts)
        values = []
        for name, each in zip(names, shapes or [shape] * len(names), strict=True):
            ranged = like.key if like else key or name
            encoding = like.encoding if like else None if real else self._encoding(ranged, fixed)
            value = Value(name, each, ranged, self.current, encoding, f"{name}.q", real)
            self._quantize(value)
            self._dequantize(value)
            values.append(value)
            if self.exposed is not None and ranged == name and fixed is None and not real:
                self.exposed.append(name)
                self.graph.output(name, each)
        return values

    def reshaped(self, x: Value, shape: tuple[int, ...]) -> Value:
        """The same integers under another shape."""
        if x.shape == shape:
            return x
        label = "x".join(map(str, shape))
        target = self.graph.constant(f"shape.{label}", shape)
        return self.op("Reshape", [x, target], f"{x.name}.as.{label}", shape, like=x)

    def turned(self, x: Value, order: tuple[int, ...]) -> Value:
        """The same integers with other axes."""
        shape = tuple(x.shape[axis] for axis in order)
        name = f"{x.name}.turned.{''.join(map(str, order))}"
        return self.op("Transpose", [x], name, shape, like=x, perm=order)

    def apart(self, x: Value, widths: Sequence[int], at: str, axis: int = -1) -> list[Value]:
        """Parts of one axis; the same integers."""
        label, axis = ".".join(map(str, widths)), axis % len(x.shape)
        sizes = self.graph.constant(f"widths.{label}", list(widths))
        names = [f"{at}.part.{number}" for number in range(len(widths))]
        shapes = [(*x.shape[:axis], width, *x.shape[axis + 1 :]) for width in widths]
        return self.ops("Split", [x, sizes], names, x.shape, x, shapes=shapes, axis=axis)

    def regridded(self, x: Value, name: str, encoding: Encoding | None) -> Value:
        """The same numbers as integers of another encoding."""
        if self.ranges is None or encoding is None:
            return x
        new = Value(name, x.shape, x.key, self.current, encoding, f"{name}.q")
        self._quantize(new, self.read(x))
        self._dequantize(new)
        return new

    def read(self, value: Value) -> str:
        """The float32 tensor to read in the current part; fetched from its part if needed."""
        if value.part == self.current or value.read_as in self.known[self.current]:
            return value.read_as
        if value.part != HOST:
            self._give(self.graphs[value.part], value)
            self.crossing[value.name] = value
        self._take(value)
        return value.read_as

    def input(
        self, name: str, shape: tuple[int, ...], encoding: Encoding | None, integers: bool = False
    ) -> Value:
        """What the host gives: float32 that the graph quantizes, or ``integers`` themselves.

        Without an encoding it is real.
        """
        if name not in self.inputs:
            form = None if self.ranges is None else encoding
            self.inputs[name] = Value(
                name, shape, name, HOST, form, name if integers else f"{name}.q", not encoding
            )
        return self.inputs[name]

    def looked_up(self, table: str, ids: str, shape: tuple[int, ...], encoding: Encoding) -> Value:
        """Rows of a table of this graph, already on the grid of ``encoding``."""
        self.graph.input(ids, "int32", shape[:2])
        self.inputs[ids] = Value(ids, shape[:2], ids, HOST)
        rows = Value(f"{table}.real", shape, table, self.current, encoding, table)
        self._dequantize(rows)
        return self.op("Gather", [rows, ids], "embedding", shape, like=rows, axis=0)

    def stored(self, value: Value, name: str, encoding: Encoding | None) -> Value:
        """A graph output: the same numbers as integers of an encoding of their own."""
        if self.ranges is None:
            self.graph.node("Identity", [self.read(value)], name)
            new = Value(name, value.shape, value.key, self.current)
        else:
            new = Value(f"{name}.real", value.shape, value.key, self.current, encoding, name)
            self._quantize(new, self.read(value))
            self._dequantize(new)
        self._give(self.graph, new)
        self.outputs[name] = new
        return new

    def final(self, value: Value, name: str) -> None:
        """The value as a float32 graph output."""
        source = self.read(value)
        if value.encoding is None:
            self.graph.node("Identity", [source], name)
        else:
            terms = self._terms(value.encoding)
            self.graph.node("DequantizeLinear", [value.integers, *terms], name)
        self.graph.output(name, value.shape)
        self.outputs[name] = Value(name, value.shape, value.key, self.current)

    def constant(
        self, name: str, array: Floats, like: Value | None = None, real: bool = False
    ) -> Value:
        """Numbers of the model that meet activations: uint16 in the quantized form, or ``real``."""
        if self.ranges is None or real:
            self.graph.float_tensor(name, array)
            return Value(name, array.shape, name, self.current, real=real)
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

    def _encoding(self, key: str, fixed: Encoding | None) -> Encoding | None:
        if self.ranges is None:
            return None
        return fixed or asymmetric(self.ranges[key])

    def _give(self, graph: Graph, value: Value) -> None:
        """Make a value an output of its part."""
        name = value.integers if value.encoding else value.name
        if name not in {output.name for output in graph.outputs}:
            graph.output(name, value.shape, value.encoding.dtype if value.encoding else "float32")

    def _take(self, value: Value) -> None:
        """Make a value of another part, or of the host, an input of this one."""
        float_input = value.encoding is None or (
            value.part == HOST and value.integers != value.name
        )
        if float_input:
            self.graph.input(value.name, "float32", value.shape)
            self._quantize(value)
        elif value.encoding is not None:
            self.graph.input(value.integers, value.encoding.dtype, value.shape)
        self.known[self.current].add(value.read_as)
        self._dequantize(value)

    def _quantize(self, value: Value, source: str = "") -> None:
        if value.encoding is not None:
            terms = self._terms(value.encoding)
            self.graph.node("QuantizeLinear", [source or value.name, *terms], value.integers)

    def _dequantize(self, value: Value) -> None:
        if value.encoding is not None:
            self.graph.node(
                "DequantizeLinear", [value.integers, *self._terms(value.encoding)], value.read_as
            )

    def _terms(self, encoding: Encoding) -> list[str]:
        """Scale and zero point as constants, shared by equal encodings."""
        label = f"{encoding.dtype}.{encoding.scale:.9g}.{encoding.zero_point}"
        return [
            self.graph.constant(f"scale.{label}", encoding.scale, np.float32),
            self.graph.constant(f"zero.{label}", encoding.zero_point, encoding.dtype),
        ]
