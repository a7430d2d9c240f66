"""How codes become ONNX weights: straight bytes, no requantization, no whole tensor in memory.

``MatMulNBits`` wants B as uint8 [N, blocks, block * bits / 8], low nibble first, code + 2^(bits-1):
the very bytes of the codes file. A per-channel scale is repeated over blocks of 128 inputs,
because the kernels are made for short blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.quant.codes import CodesFile, pack, zero_point
from slmkit_onnx.backend import PER_CHANNEL_BLOCK
from slmkit_onnx.graph import MICROSOFT, Graph, Value

ROWS = 4096  # rows converted at a time


class WeightWriter:
    """Puts the weights of one codes file into a graph, each once."""

    def __init__(self, graph: Graph, codes: CodesFile, accuracy_level: int) -> None:
        self.graph = graph
        self.codes = codes
        self.accuracy_level = accuracy_level

    def vector(self, tensor: str) -> str:
        """A norm's weight or a bias, float32."""
        return self.graph.floats(tensor, self.codes.vector(tensor))

    def linear(self, x: Value, name: str, output: str, bias: bool) -> str:
        """x @ weight.T (+ bias)"""
        if self.codes.schemes[name].encoding == "float16":
            return self._half_linear(x, name, output, bias)
        rows, width = self.codes.shapes[name]
        zeros = "" if self.codes.schemes[name].symmetric else self._zero_points(name)
        term = self.vector(f"{name}.bias") if bias else ""
        inputs = [x.name, self._blocks(name), self._scales(name), zeros, "", term]
        while not inputs[-1]:
            inputs.pop()  # optional inputs at the end are left out
        return self.graph.node(
            "MatMulNBits", inputs, output, MICROSOFT,
            K=width, N=rows, bits=self.bits(name), block_size=self.block(name),
            accuracy_level=self.accuracy_level,
        )  # fmt: skip

    def gather(self, ids: str, name: str, output: str) -> str:
        """Rows of a table by token ids, float32."""
        if self.codes.schemes[name].encoding == "float16":
            rows = self.graph.node("Gather", [self._halves(name), ids], f"{output}.half")
            return self.graph.node("Cast", [rows], output, to=1)
        inputs = [self._table(name), ids, self._scales(name)]
        if not self.codes.schemes[name].symmetric:
            inputs.append(self._zero_points(name))
        blocks, width = self._grid(name)[1] * self.block(name), self.codes.shapes[name][1]
        rows = self.graph.node(
            "GatherBlockQuantized",
            inputs,
            output if blocks == width else f"{output}.padded",
            MICROSOFT,
            bits=self.bits(name),
            block_size=self.block(name),
            gather_axis=0,
            quantize_axis=1,
        )
        return rows if blocks == width else self._cut(rows, width, output)

    def _cut(self, x: str, width: int, output: str) -> str:
        """Drop the padding of the last axis."""
        ends = (("cut.start", [0]), (f"cut.{width}", [width]), ("cut.axis", [-1]))
        bounds = [self.graph.constant(name, value) for name, value in ends]
        return self.graph.node("Slice", [x, *bounds], output)

    def bits(self, name: str) -> int:
        """4 or 8."""
        return self.codes.schemes[name].bits or 8

    def block(self, name: str) -> int:
        """Inputs that share a scale in the kernel's eyes: a power of two."""
        return self.codes.schemes[name].group_size or PER_CHANNEL_BLOCK

    def _half_linear(self, x: Value, name: str, output: str, bias: bool) -> str:
        """float16 in the file; ONNX Runtime casts and transposes it once, when it loads."""
        wide = self.graph.node("Cast", [self._halves(name)], f"{output}.wide", to=1)
        turned = self.graph.node("Transpose", [wide], f"{output}.turned", perm=[1, 0])
        if not bias:
            return self.graph.node("MatMul", [x.name, turned], output)
        product = self.graph.node("MatMul", [x.name, turned], f"{output}.product")
        return self.graph.node("Add", [product, self.vector(f"{name}.bias")], output)

    def _halves(self, name: str) -> str:
        return self.graph.external(
            f"{name}.weight", "float16", self.codes.shapes[name], f"{name}.weight",
            lambda: self._rows(name, self.codes.halves),
        )  # fmt: skip

    def _blocks(self, name: str) -> str:
        """B of MatMulNBits."""
        rows, blocks = self._grid(name)
        shape = (rows, blocks, self.block(name) * self.bits(name) // 8)
        return self._codes(f"{name}.blocks", name, shape)

    def _table(self, name: str) -> str:
        """The table of GatherBlockQuantized: the bytes of ``_blocks`` under a flat shape."""
        rows, blocks = self._grid(name)
        shape = (rows, blocks * self.block(name) * self.bits(name) // 8)
        return self._codes(f"{name}.table", name, shape)

    def _codes(self, tensor: str, name: str, shape: tuple[int, ...]) -> str:
        padded = shape[0] and int(np.prod(shape[1:]))
        return self.graph.external(
            tensor, "uint8", shape, f"{name}.codes", lambda: self._padded_rows(name, padded)
        )

    def _padded_rows(self, name: str, padded: int) -> Iterator[NDArray[Any]]:
        """Packed codes, each row filled up to whole blocks with the zero point."""
        bits = self.bits(name)
        for packed in self._rows(name, self.codes.packed):
            missing = padded - packed.shape[1]
            filler = pack(np.full((1, 2), zero_point(self.codes.schemes[name]), np.uint8), bits)
            yield np.pad(packed, ((0, 0), (0, missing)), constant_values=int(filler[0, 0]))

    def _scales(self, name: str) -> str:
        return self.graph.external(
            f"{name}.scales", "float32", self._grid(name), f"{name}.scales",
            lambda: iter([self._per_block(name, self.codes.scales(name))]),
        )  # fmt: skip

    def _zero_points(self, name: str) -> str:
        """Packed like the codes: for 4 bits two a byte, each row filled up to a whole byte."""
        rows, blocks = self._grid(name)
        bits = self.bits(name)
        width = -(-blocks * bits // 8)

        def chunks() -> Iterator[NDArray[Any]]:
            points = self._per_block(name, self.codes.zero_points(name))
            yield pack(np.pad(points, ((0, 0), (0, width * 8 // bits - blocks))), bits)

        shape = (rows, width)
        return self.graph.external(f"{name}.zeros", "uint8", shape, f"{name}.zeros", chunks)

    def _grid(self, name: str) -> tuple[int, int]:
        """Rows, and blocks a row."""
        rows, width = self.codes.shapes[name]
        return rows, -(-width // self.block(name))

    def _per_block(self, name: str, per_group: NDArray[Any]) -> NDArray[Any]:
        blocks = self._grid(name)[1]
        repeats = blocks // per_group.shape[1]
        return np.repeat(per_group, repeats, axis=1) if repeats > 1 else per_group

    def _rows(self, name: str, read: Any) -> Iterator[NDArray[Any]]:
        whole = read(name)
        for first in range(0, len(whole), ROWS):
            yield whole[first : first + ROWS]
            self.codes.forget(name)
