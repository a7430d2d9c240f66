"""Write codes as QDQ weights: the bundle's own integers and scales, transposed to [K, N].

8 bits per channel: DequantizeLinear(int8 [K, N], scale [N], axis 1).
4 bits, two-level: DequantizeLinear(uint8 multipliers [K/g, N], channel scale [N], axis 1) computes
the scales of DequantizeLinear(int4 [K, N], axis 0, block g). HTP computes this form exactly. 4 bits
per channel have the same form with one multiplier everywhere (16: the channel scale is divided by a
power of 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.ops import Floats
from slmkit.quant.codes import CodesFile, pack, padded_width
from slmkit.recipe.scheme import Scheme
from slmkit_onnx.graph import Graph, bits_of
from slmkit_onnx.hexagon.lowering.encodings import Encoding, Range

CHANNEL_BLOCK = 32  # inputs per block of a 4-bit weight that has one scale per channel
MULTIPLIER = 16  # its multiplier: an exact power of two
ROWS = 4096  # rows of a table converted at a time


def block_size(scheme: Scheme) -> int:
    """Inputs of one block of a 4-bit weight."""
    return scheme.group_size or CHANNEL_BLOCK


class WeightWriter:
    """Add weights to graphs; all graphs of an artifact share the bytes."""

    def __init__(self, codes: CodesFile) -> None:
        self.codes = codes

    def padded_inputs(self, name: str) -> int:
        """K of the stored matrix: for 4 bits, the inputs padded to whole blocks."""
        scheme, width = self.codes.schemes[name], self.codes.shapes[name][1]
        return -(-width // block_size(scheme)) * block_size(scheme) if scheme.bits == 4 else width

    def row_factors(self, name: str) -> Floats:
        """Powers of two, (N,), by which a matrix' large rows exceed the typical one; at least 1.

        By the Euclidean norm of a row over the median row's: rows that make the residual stream's
        massive channels have three to five times the norm of the others.
        """
        blocks = self.codes.blocks(f"{name}.weight")
        norms = np.concatenate([np.linalg.norm(block, axis=1) for _, block in blocks])
        median = np.median(norms)
        if not median > 0:
            return np.ones(len(norms), np.float32)
        factors: Floats = np.exp2(np.rint(np.log2(np.maximum(norms / median, 1))))
        return factors.astype(np.float32)

    def matrix(self, graph: Graph, name: str, divisors: Floats | None = None) -> str:
        """Add a weight to a graph; return the dequantized [K, N], second operand of MatMul.

        ``divisors``: powers of two, (N,), by which the rows are divided; all uses agree on them.
        """
        if f"{name}.codes" in graph.tensors:
            return f"{name}.weight"
        scheme, rows = self.codes.schemes[name], self.codes.shapes[name][0]
        dtype = "int4" if scheme.bits == 4 else "int8"
        codes = graph.external(
            f"{name}.codes",
            dtype,
            (self.padded_inputs(name), rows),
            f"{name}.turned",
            lambda: iter([self._transposed_codes(name)]),
        )
        output = f"{name}.weight"
        if scheme.bits == 8:
            channel = _divided(self.codes.scales(name)[:, 0], divisors)
            scales = graph.float_tensor(f"{name}.channel_scales", channel)
            inputs = [codes, scales, self._zero_points(graph, dtype, (rows,))]
            return graph.node("DequantizeLinear", inputs, output, axis=1)
        block = block_size(scheme)
        zeros = self._zero_points(graph, dtype, (self.padded_inputs(name) // block, rows))
        inputs = [codes, self._block_scales(graph, name, divisors), zeros]
        return graph.node("DequantizeLinear", inputs, output, axis=0, block_size=block)

    def table(self, graph: Graph, name: str, encoding: Encoding) -> str:
        """Add an embedding table to a graph, its rows quantized as activations are. [rows, D]"""
        rows, width = self.codes.shapes[name]

        def chunks() -> Iterator[NDArray[Any]]:
            for first in range(0, rows, ROWS):
                block = self.codes.rows(f"{name}.weight", slice(first, first + ROWS))
                yield encoding.quantize(block)

        return graph.external(
            f"{name}.table", encoding.dtype, (rows, width), f"{name}.table", chunks
        )

    def table_range(self, name: str) -> Range:
        """Minimum and maximum of a table."""
        lows, highs = [], []
        for _, block in self.codes.blocks(f"{name}.weight"):
            lows.append(float(block.min()))
            highs.append(float(block.max()))
        return min(lows), max(highs)

    def vector(self, tensor: str) -> Floats:
        """A norm's weight or a bias."""
        return self.codes.vector(tensor)

    def _block_scales(self, graph: Graph, name: str, divisors: Floats | None) -> str:
        """The scales of a 4-bit weight's blocks, [K/g, N], as multipliers times channel scale."""
        channel, multipliers = self._scale_factors(name)
        graph.external(
            f"{name}.multipliers",
            "uint8",
            multipliers.shape,
            f"{name}.multipliers",
            lambda: iter([multipliers]),
        )
        graph.float_tensor(f"{name}.channel_scales", _divided(channel, divisors))
        return graph.node(
            "DequantizeLinear",
            [
                f"{name}.multipliers",
                f"{name}.channel_scales",
                self._zero_points(graph, "uint8", channel.shape),
            ],
            f"{name}.block_scales",
            axis=1,
        )

    def _zero_points(self, graph: Graph, dtype: str, shape: tuple[int, ...]) -> str:
        """Zero points of 0, shared by equal shapes; HTP's compiler refuses weights without them."""
        name = f"zeros.{dtype}.{'x'.join(map(str, shape))}"
        size = -(-int(np.prod(shape)) * bits_of(dtype) // 8)
        return graph.external(name, dtype, shape, name, lambda: iter([np.zeros(size, np.uint8)]))

    def _scale_factors(self, name: str) -> tuple[Floats, NDArray[np.uint8]]:
        """Channel scales (N,) and multipliers (K/g, N) of a 4-bit weight."""
        if self.codes.schemes[name].scales == "two-level":
            channel, multipliers = self.codes.two_level(name)
            return channel, np.ascontiguousarray(multipliers.T)
        blocks = self.padded_inputs(name) // CHANNEL_BLOCK
        channel = self.codes.scales(name)[:, 0] / np.float32(MULTIPLIER)
        return channel, np.full((blocks, len(channel)), MULTIPLIER, dtype=np.uint8)

    def _transposed_codes(self, name: str) -> NDArray[Any]:
        """Signed codes [K, N] in C order; 4 bits packed two a byte along N, low nibble first."""
        scheme, width = self.codes.schemes[name], self.codes.shapes[name][1]
        codes = self.codes.codes(name).signed
        self.codes.forget(name)
        transposed = np.zeros((self.padded_inputs(name), len(codes)), dtype=np.int8)
        transposed[: min(width, padded_width(scheme, width))] = codes.T[:width]
        if scheme.bits == 8:
            return transposed
        nibbles = transposed.reshape(-1).view(np.uint8) & np.uint8(0xF)
        return pack(np.append(nibbles, np.zeros(len(nibbles) % 2, np.uint8)), 4)


def _divided(scales: Floats, divisors: Floats | None) -> Floats:
    return scales if divisors is None else scales / divisors
