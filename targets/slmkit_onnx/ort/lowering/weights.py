"""Write codes as ONNX weights: the bytes of the codes file, no requantization, a chunk at a time.

``MatMulNBits`` wants B as uint8 [N, blocks, block * bits / 8], low nibble first, code + 2^(bits-1):
the very bytes of the codes file. A per-channel scale is repeated over blocks of 128 inputs,
because the kernels are made for short blocks. Weights that multiply the same input are concatenated
along N and computed by one kernel call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.quant.codes import CodesFile, pack, zero_point
from slmkit_onnx.graph import MICROSOFT, Graph
from slmkit_onnx.ort.files import PER_CHANNEL_BLOCK
from slmkit_onnx.ort.lowering.adapters import AdapterPlaces
from slmkit_onnx.ort.lowering.value import Value

ROWS = 4096  # rows converted at a time
Names = Sequence[str]


def joint_name(names: Names) -> str:
    """One name for several weights of a block: "...self_attn.q_proj+k_proj+v_proj"."""
    return "+".join([names[0], *(name.rpartition(".")[2] for name in names[1:])])


class WeightWriter:
    """Add the weights of one codes file to a graph, each at most once."""

    def __init__(
        self,
        graph: Graph,
        codes: CodesFile,
        accuracy_level: int,
        adapters: AdapterPlaces | None = None,
    ) -> None:
        self.graph = graph
        self.adapters = adapters  # None: the graph has no places for any
        self.codes = codes
        self.accuracy_level = accuracy_level

    def vector(self, tensor: str) -> str:
        """Add a norm's weight or a bias as float32; return its name."""
        return self.graph.float_tensor(tensor, self.codes.vector(tensor))

    def can_join(self, names: Names) -> bool:
        """True if one kernel call can multiply all of these weights: one integer scheme."""
        schemes = [self.codes.schemes[name] for name in names]
        return schemes[0].bits is not None and all(scheme == schemes[0] for scheme in schemes)

    def linear(self, x: Value, names: Names, output: str, bias: bool) -> str:
        """x @ weight.T (+ bias), the weights concatenated along N. [batch, T, K] -> [batch, T, N]

        Several names must satisfy ``can_join``.
        """
        if self.adapters is None or not self.adapters.has(names):
            return self._product(x, names, output, bias)
        base = self._product(x, names, f"{output}.base", bias)
        return self.adapters.add(x.name, names, joint_name(names), base, output)

    def _product(self, x: Value, names: Names, output: str, bias: bool) -> str:
        """``linear`` without an adapter."""
        if self.codes.schemes[names[0]].bits is None:
            return self._float16_linear(x, names[0], output, bias)
        zeros = "" if self.codes.schemes[names[0]].symmetric else self._zero_points(names)
        term = self._bias(names) if bias else ""
        inputs = [x.name, self._codes_in_blocks(names), self._scales(names), zeros, "", term]
        while not inputs[-1]:
            inputs.pop()  # ONNX omits optional inputs at the end
        return self.graph.node(
            "MatMulNBits",
            inputs,
            output,
            MICROSOFT,
            K=self.codes.shapes[names[0]][1],
            N=self._row_count(names),
            bits=self.bits(names[0]),
            block_size=self.block_size(names[0]),
            accuracy_level=self.accuracy_level,
        )

    def gather(self, ids: str, name: str, output: str) -> str:
        """Look up rows of a table by token ids, float32. [batch, T] -> [batch, T, D]"""
        if self.codes.schemes[name].bits is None:
            rows = self.graph.node("Gather", [self._float16_weight(name), ids], f"{output}.half")
            return self.graph.node("Cast", [rows], output, to=1)
        inputs = [self._table(name), ids, self._scales([name])]
        if not self.codes.schemes[name].symmetric:
            inputs.append(self._zero_points([name]))
        width = self.codes.shapes[name][1]
        padded_width = self._block_count(name) * self.block_size(name)
        rows = self.graph.node(
            "GatherBlockQuantized",
            inputs,
            output if padded_width == width else f"{output}.padded",
            MICROSOFT,
            bits=self.bits(name),
            block_size=self.block_size(name),
            gather_axis=0,
            quantize_axis=1,
        )
        return rows if padded_width == width else self._drop_padding(rows, width, output)

    def bits(self, name: str) -> int:
        """Bits of a code: 4 or 8."""
        return self.codes.schemes[name].bits or 8

    def block_size(self, name: str) -> int:
        """Inputs that share one scale in the kernel: a power of two."""
        return self.codes.schemes[name].group_size or PER_CHANNEL_BLOCK

    def _drop_padding(self, x: str, width: int, output: str) -> str:
        """Keep the first ``width`` elements of the last axis."""
        ends = (("cut.start", [0]), (f"cut.{width}", [width]), ("cut.axis", [-1]))
        bounds = [self.graph.constant(name, value) for name, value in ends]
        return self.graph.node("Slice", [x, *bounds], output)

    def _float16_linear(self, x: Value, name: str, output: str, bias: bool) -> str:
        """float16 in the file; ONNX Runtime casts and transposes it once, when it loads."""
        widened = self.graph.node("Cast", [self._float16_weight(name)], f"{output}.wide", to=1)
        transposed = self.graph.node("Transpose", [widened], f"{output}.turned", perm=[1, 0])
        if not bias:
            return self.graph.node("MatMul", [x.name, transposed], output)
        product = self.graph.node("MatMul", [x.name, transposed], f"{output}.product")
        return self.graph.node("Add", [product, self.vector(f"{name}.bias")], output)

    def _float16_weight(self, name: str) -> str:
        return self._external(
            [name],
            "weight",
            "float16",
            self.codes.shapes[name],
            lambda name: self._row_chunks(name, self.codes.halves),
        )

    def _bias(self, names: Names) -> str:
        vectors = [self.codes.vector(f"{name}.bias") for name in names]
        return self.graph.float_tensor(f"{joint_name(names)}.bias", np.concatenate(vectors))

    def _codes_in_blocks(self, names: Names) -> str:
        """B of MatMulNBits, [N, blocks, bytes of a block]."""
        block_bytes = self.block_size(names[0]) * self.bits(names[0]) // 8
        shape = (self._row_count(names), self._block_count(names[0]), block_bytes)
        return self._external(names, "codes", "uint8", shape, self._padded_codes, "blocks")

    def _table(self, name: str) -> str:
        """The table of GatherBlockQuantized: the bytes of ``_codes_in_blocks``, [N, row bytes]."""
        row_bytes = self._block_count(name) * self.block_size(name) * self.bits(name) // 8
        shape = (self._row_count([name]), row_bytes)
        return self._external([name], "codes", "uint8", shape, self._padded_codes, "table")

    def _padded_codes(self, name: str) -> Iterator[NDArray[Any]]:
        """Packed codes, each row padded to whole blocks with the zero point."""
        bits = self.bits(name)
        row_bytes = self._block_count(name) * self.block_size(name) * bits // 8
        filler = pack(np.full((1, 2), zero_point(self.codes.schemes[name]), np.uint8), bits)[0, 0]
        for packed in self._row_chunks(name, self.codes.packed):
            missing = ((0, 0), (0, row_bytes - packed.shape[1]))
            yield np.pad(packed, missing, constant_values=int(filler))

    def _scales(self, names: Names) -> str:
        """float32 scales, [N, blocks]."""
        shape = (self._row_count(names), self._block_count(names[0]))
        return self._external(
            names,
            "scales",
            "float32",
            shape,
            lambda name: iter([self._repeat_per_block(name, self.codes.scales(name))]),
        )

    def _zero_points(self, names: Names) -> str:
        """Zero points, packed like the codes: 4-bit ones two a byte, rows padded to whole bytes."""
        bits, blocks = self.bits(names[0]), self._block_count(names[0])
        width = -(-blocks * bits // 8)

        def packed(name: str) -> Iterator[NDArray[Any]]:
            points = self._repeat_per_block(name, self.codes.zero_points(name))
            yield pack(np.pad(points, ((0, 0), (0, width * 8 // bits - blocks))), bits)

        return self._external(names, "zeros", "uint8", (self._row_count(names), width), packed)

    def _external(
        self,
        names: Names,
        content: str,
        dtype: str,
        shape: tuple[int, ...],
        chunks: Callable[[str], Iterator[NDArray[Any]]],
        suffix: str = "",
    ) -> str:
        """Add one tensor to the data file: the chunks of all weights, one weight after another."""
        joint = joint_name(names)
        return self.graph.external(
            f"{joint}.{suffix or content}",
            dtype,
            shape,
            f"{joint}.{content}",
            lambda: (chunk for name in names for chunk in chunks(name)),
        )

    def _row_count(self, names: Names) -> int:
        return sum(self.codes.shapes[name][0] for name in names)

    def _block_count(self, name: str) -> int:
        """Blocks in a row, the last one padded."""
        return -(-self.codes.shapes[name][1] // self.block_size(name))

    def _repeat_per_block(self, name: str, per_group: NDArray[Any]) -> NDArray[Any]:
        """Repeat a row's value over its blocks where a group is the whole row."""
        repeats = self._block_count(name) // per_group.shape[1]
        return np.repeat(per_group, repeats, axis=1) if repeats > 1 else per_group

    def _row_chunks(self, name: str, read: Callable[[str], NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """Yield ``ROWS`` rows at a time and release the file's memory after each."""
        rows = read(name)
        for first in range(0, len(rows), ROWS):
            yield rows[first : first + ROWS]
            self.codes.forget(name)
