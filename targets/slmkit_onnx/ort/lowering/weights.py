"""How codes become ONNX weights: straight bytes, no requantization, no whole tensor in memory.

``MatMulNBits`` wants B as uint8 [N, blocks, block * bits / 8], low nibble first, code + 2^(bits-1):
the very bytes of the codes file. A per-channel scale is repeated over blocks of 128 inputs,
because the kernels are made for short blocks. Weights that read the same values are laid one after
the other along N and multiplied in one kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.quant.codes import CodesFile, pack, zero_point
from slmkit_onnx.graph import MICROSOFT, Graph
from slmkit_onnx.ort.files import PER_CHANNEL_BLOCK
from slmkit_onnx.ort.lowering.value import Value

ROWS = 4096  # rows converted at a time
Names = Sequence[str]


def label(names: Names) -> str:
    """One name for several weights of a block: "...self_attn.q_proj+k_proj+v_proj"."""
    return "+".join([names[0], *(name.rpartition(".")[2] for name in names[1:])])


class WeightWriter:
    """Puts the weights of one codes file into a graph, each once."""

    def __init__(self, graph: Graph, codes: CodesFile, accuracy_level: int) -> None:
        self.graph = graph
        self.codes = codes
        self.accuracy_level = accuracy_level

    def vector(self, tensor: str) -> str:
        """A norm's weight or a bias, float32."""
        return self.graph.floats(tensor, self.codes.vector(tensor))

    def joinable(self, names: Names) -> bool:
        """Whether one kernel can multiply all of these weights."""
        schemes = [self.codes.schemes[name] for name in names]
        return schemes[0].bits is not None and all(scheme == schemes[0] for scheme in schemes)

    def linear(self, x: Value, names: Names, output: str, bias: bool) -> str:
        """x @ weight.T (+ bias), for several joinable weights one after the other along N."""
        if self.codes.schemes[names[0]].bits is None:
            return self._half_linear(x, names[0], output, bias)
        zeros = "" if self.codes.schemes[names[0]].symmetric else self._zero_points(names)
        term = self._bias(names) if bias else ""
        inputs = [x.name, self._blocks(names), self._scales(names), zeros, "", term]
        while not inputs[-1]:
            inputs.pop()  # optional inputs at the end are left out
        return self.graph.node(
            "MatMulNBits",
            inputs,
            output,
            MICROSOFT,
            K=self.codes.shapes[names[0]][1],
            N=self._rows_of(names),
            bits=self.bits(names[0]),
            block_size=self.block(names[0]),
            accuracy_level=self.accuracy_level,
        )

    def gather(self, ids: str, name: str, output: str) -> str:
        """Rows of a table by token ids, float32."""
        if self.codes.schemes[name].bits is None:
            rows = self.graph.node("Gather", [self._halves(name), ids], f"{output}.half")
            return self.graph.node("Cast", [rows], output, to=1)
        inputs = [self._table(name), ids, self._scales([name])]
        if not self.codes.schemes[name].symmetric:
            inputs.append(self._zero_points([name]))
        padded, width = self._blocks_of(name) * self.block(name), self.codes.shapes[name][1]
        rows = self.graph.node(
            "GatherBlockQuantized",
            inputs,
            output if padded == width else f"{output}.padded",
            MICROSOFT,
            bits=self.bits(name),
            block_size=self.block(name),
            gather_axis=0,
            quantize_axis=1,
        )
        return rows if padded == width else self._cut(rows, width, output)

    def bits(self, name: str) -> int:
        """4 or 8."""
        return self.codes.schemes[name].bits or 8

    def block(self, name: str) -> int:
        """Inputs that share a scale in the kernel's eyes: a power of two."""
        return self.codes.schemes[name].group_size or PER_CHANNEL_BLOCK

    def _cut(self, x: str, width: int, output: str) -> str:
        """Drop the padding of the last axis."""
        ends = (("cut.start", [0]), (f"cut.{width}", [width]), ("cut.axis", [-1]))
        bounds = [self.graph.constant(name, value) for name, value in ends]
        return self.graph.node("Slice", [x, *bounds], output)

    def _half_linear(self, x: Value, name: str, output: str, bias: bool) -> str:
        """float16 in the file; ONNX Runtime casts and transposes it once, when it loads."""
        wide = self.graph.node("Cast", [self._halves(name)], f"{output}.wide", to=1)
        turned = self.graph.node("Transpose", [wide], f"{output}.turned", perm=[1, 0])
        if not bias:
            return self.graph.node("MatMul", [x.name, turned], output)
        product = self.graph.node("MatMul", [x.name, turned], f"{output}.product")
        return self.graph.node("Add", [product, self.vector(f"{name}.bias")], output)

    def _halves(self, name: str) -> str:
        shape = self.codes.shapes[name]
        return self._external(
            [name], "weight", "float16", shape, lambda name: self._pieces(name, self.codes.halves)
        )

    def _bias(self, names: Names) -> str:
        vectors = [self.codes.vector(f"{name}.bias") for name in names]
        return self.graph.floats(f"{label(names)}.bias", np.concatenate(vectors))

    def _blocks(self, names: Names) -> str:
        """B of MatMulNBits."""
        bytes_ = self.block(names[0]) * self.bits(names[0]) // 8
        shape = (self._rows_of(names), self._blocks_of(names[0]), bytes_)
        return self._external(names, "codes", "uint8", shape, self._packed, "blocks")

    def _table(self, name: str) -> str:
        """The table of GatherBlockQuantized: the bytes of ``_blocks`` under a flat shape."""
        bytes_ = self._blocks_of(name) * self.block(name) * self.bits(name) // 8
        shape = (self._rows_of([name]), bytes_)
        return self._external([name], "codes", "uint8", shape, self._packed, "table")

    def _packed(self, name: str) -> Iterator[NDArray[Any]]:
        """Packed codes, each row filled up to whole blocks with the zero point."""
        bits = self.bits(name)
        padded = self._blocks_of(name) * self.block(name) * bits // 8
        filler = pack(np.full((1, 2), zero_point(self.codes.schemes[name]), np.uint8), bits)[0, 0]
        for packed in self._pieces(name, self.codes.packed):
            missing = ((0, 0), (0, padded - packed.shape[1]))
            yield np.pad(packed, missing, constant_values=int(filler))

    def _scales(self, names: Names) -> str:
        shape = (self._rows_of(names), self._blocks_of(names[0]))
        return self._external(
            names,
            "scales",
            "float32",
            shape,
            lambda name: iter([self._per_block(name, self.codes.scales(name))]),
        )

    def _zero_points(self, names: Names) -> str:
        """Packed like the codes: for 4 bits two a byte, each row filled up to a whole byte."""
        bits, blocks = self.bits(names[0]), self._blocks_of(names[0])
        width = -(-blocks * bits // 8)

        def packed(name: str) -> Iterator[NDArray[Any]]:
            points = self._per_block(name, self.codes.zero_points(name))
            yield pack(np.pad(points, ((0, 0), (0, width * 8 // bits - blocks))), bits)

        return self._external(names, "zeros", "uint8", (self._rows_of(names), width), packed)

    def _external(
        self,
        names: Names,
        content: str,
        dtype: str,
        shape: tuple[int, ...],
        chunks: Callable[[str], Iterator[NDArray[Any]]],
        part: str = "",
    ) -> str:
        """A tensor of the data file: the chunks of one weight after those of another."""
        whole = label(names)
        return self.graph.external(
            f"{whole}.{part or content}",
            dtype,
            shape,
            f"{whole}.{content}",
            lambda: (chunk for name in names for chunk in chunks(name)),
        )

    def _rows_of(self, names: Names) -> int:
        return sum(self.codes.shapes[name][0] for name in names)

    def _blocks_of(self, name: str) -> int:
        return -(-self.codes.shapes[name][1] // self.block(name))

    def _per_block(self, name: str, per_group: NDArray[Any]) -> NDArray[Any]:
        repeats = self._blocks_of(name) // per_group.shape[1]
        return np.repeat(per_group, repeats, axis=1) if repeats > 1 else per_group

    def _pieces(self, name: str, read: Callable[[str], NDArray[Any]]) -> Iterator[NDArray[Any]]:
        whole = read(name)
        for first in range(0, len(whole), ROWS):
            yield whole[first : first + ROWS]
            self.codes.forget(name)
