"""Weights with a factor on each output and input, read as float32 like the checkpoint's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from slmkit.ops import Floats
from slmkit.quant.codes import Codes


class Source(Protocol):
    """Weights that can be quantized: read by name, a few rows at a time."""

    def vector(self, tensor: str) -> Floats:
        """A norm, bias or other vector, flat, float32."""
        ...

    def rows(self, tensor: str, rows: Any) -> Floats:
        """``rows`` of a matrix, (len(rows), in) float32."""
        ...

    def blocks(self, tensor: str) -> Iterator[tuple[int, Floats]]:
        """A matrix in consecutive blocks of rows: (first row, block)."""
        ...

    def forget(self, tensor: str) -> None:
        """Release a tensor's memory; it is read again on the next access."""
        ...


@runtime_checkable
class CodedSource(Source, Protocol):
    """A source of which some matrices can be had as codes too."""

    def codes(self, name: str, rows: Any) -> Codes:
        """``rows`` of a matrix in the codes that the checkpoint brings."""
        ...


@dataclass(frozen=True, eq=False)
class Factors:
    """Factors on one weight; None: all are 1."""

    outputs: Floats | None = None  # (N,): rows of a matrix and its bias, or a norm's gain
    inputs: Floats | None = None  # (K,): columns of a matrix

    def times(self, other: Factors) -> Factors:
        """Both factors at once."""
        return Factors(_product(self.outputs, other.outputs), _product(self.inputs, other.inputs))


class ScaledWeights:
    """Another source's weights times ``factors``, by weight name. Implements ``Source``."""

    def __init__(self, source: Source, factors: Mapping[str, Factors]) -> None:
        self.source, self.factors = source, factors

    def vector(self, tensor: str) -> Floats:
        """A norm, bias or other vector, flat, float32."""
        values = self.source.vector(tensor)
        found = self.factors.get(tensor.removesuffix(".weight").removesuffix(".bias"))
        return values if found is None or found.outputs is None else values * found.outputs

    def rows(self, tensor: str, rows: Any) -> Floats:
        """``rows`` of a matrix, (len(rows), in) float32."""
        return self._times(self.source.rows(tensor, rows), tensor, rows)

    def blocks(self, tensor: str) -> Iterator[tuple[int, Floats]]:
        """A matrix in consecutive blocks of rows: (first row, block)."""
        for first, block in self.source.blocks(tensor):
            yield first, self._times(block, tensor, slice(first, first + len(block)))

    def _times(self, values: Floats, tensor: str, rows: Any) -> Floats:
        found = self.factors.get(tensor.removesuffix(".weight"))
        if found is not None and found.outputs is not None:
            values = values * found.outputs[rows, None]
        if found is not None and found.inputs is not None:
            values = values * found.inputs
        return values

    def codes(self, name: str, rows: Any) -> Codes:
        """``rows`` of a matrix in the codes that the checkpoint brings.

        Their factors are powers of two, which change exponents of scales alone (float16 holds the
        products unless they are very small, and ``packed_codes`` refuses those).
        """
        if not isinstance(self.source, CodedSource):
            raise ValueError(f"{name}: the weights bring no codes")
        codes, found = self.source.codes(name, rows), self.factors.get(name)
        if found is None:
            return codes
        if found.inputs is not None or found.outputs is None:
            raise ValueError(f"{name}: factors on inputs would change codes")
        return replace(codes, scales=codes.scales * found.outputs[rows, None])

    def forget(self, tensor: str) -> None:
        """Release a tensor's memory."""
        self.source.forget(tensor)


def _product(one: Floats | None, other: Floats | None) -> Floats | None:
    if one is None or other is None:
        return other if one is None else one
    return one * other
