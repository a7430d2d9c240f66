"""Write codes as Core ML constants: the bundle's own integers, scales and palettes.

``constexpr_blockwise_shift_scale`` holds int4 or int8 codes with float16 scales: [O, 1] per
channel, [O, I / group] group-wise. ``constexpr_lut_to_dense`` holds 3-, 4- or 6-bit indices and a
palette per group of rows, [groups, 1, 2^bits, 1]. Scales and palettes are exact in float16, so
nothing is rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - as its own documents have it
from coremltools.converters.mil.mil import types
from numpy.typing import NDArray

from slmkit.quant.codes import CodesFile
from slmkit.recipe.scheme import Scheme

Array = NDArray[Any]
INTEGER_TYPES = {4: types.int4, 8: types.int8}
INDEX_TYPES = {3: types.uint3, 4: types.uint4, 6: types.uint6}


class WeightWriter:
    """Make the constants of one function, each once; all functions share ``arrays``."""

    def __init__(self, codes: CodesFile, arrays: dict[str, tuple[Array, ...]]) -> None:
        self.codes = codes
        self.arrays = arrays
        self.constants: dict[str, Any] = {}

    def matrix(self, name: str, rows: slice, label: str, ones: int = 0) -> Any:
        """Some rows of a matrix, followed by ``ones`` axes of size 1 (2 for a 1x1 convolution).

        With palettes, the last group of rows is padded: the caller must drop the surplus outputs.
        """
        if label not in self.arrays:
            self.arrays[label] = self._arrays(name, rows, ones)
        if label not in self.constants:
            scheme = self.codes.schemes[name]
            self.constants[label] = _constant(scheme, self.arrays[label], label)
        return self.constants[label]

    def vector(self, tensor: str, some: slice, ones: int) -> Any:
        """Some elements of a norm's weight or a bias, float16, followed by ``ones`` axes of 1."""
        values = self.codes.vector(tensor)[some].astype(np.float16)
        variable = mb.const(val=values.reshape(-1, *(1,) * ones))
        return share(variable, f"{tensor} {some.start}")

    def bias(self, tensor: str, rows: int) -> Any:
        """A bias padded with zeros to ``rows``; zeros without a tensor.

        A linear without a bias would get a constant of its own in each function.
        """
        values = self.codes.vector(tensor) if tensor else np.zeros(0)
        padded = np.pad(values, (0, rows - len(values))).astype(np.float16)
        return share(mb.const(val=padded), tensor or f"{rows} zeros")

    def _arrays(self, name: str, rows: slice, ones: int) -> tuple[Array, ...]:
        """float16 values, or codes and scales, or indices and palettes."""
        scheme, width = self.codes.schemes[name], self.codes.shapes[name][1]
        if scheme.encoding == "palette":
            return self._palette(name, rows, ones)
        if scheme.bits is None:
            return (_append_axes(self.codes.halves(name)[rows], ones),)
        codes = self.codes.codes(name, rows)
        dtype = types.nptype_from_builtin(INTEGER_TYPES[scheme.bits])
        signed = codes.signed[:, :width].astype(dtype)
        return _append_axes(signed, ones), _append_axes(codes.scales.astype(np.float16), ones)

    def _palette(self, name: str, rows: slice, ones: int) -> tuple[Array, ...]:
        """Indices, and palettes [groups, 1, ..., 2^bits, 1]."""
        scheme = self.codes.schemes[name]
        stored = self.codes.palette(name, rows)
        palettes = stored.palettes.astype(np.float16)
        missing = len(palettes) * (scheme.group_rows or 1) - len(stored.codes)
        codes = np.pad(stored.codes, ((0, missing), (0, 0)))
        indices = codes.astype(types.nptype_from_builtin(INDEX_TYPES[scheme.bits or 4]))
        shape = (len(palettes), 1, *(1,) * ones, palettes.shape[1], 1)
        return _append_axes(indices, ones), palettes.reshape(shape)


def _constant(scheme: Scheme, arrays: tuple[Array, ...], label: str) -> Any:
    """A const or constexpr operation of the arrays, shared by all functions."""
    if scheme.encoding == "float16":
        return share(mb.const(val=arrays[0], name=label), label)
    if scheme.encoding == "palette":
        variable = mb.constexpr_lut_to_dense(indices=arrays[0], lut=arrays[1], name=label)
    else:
        variable = mb.constexpr_blockwise_shift_scale(data=arrays[0], scale=arrays[1], name=label)
    for part, each in variable.op.inputs.items():
        if each is not None:
            share(each, f"{label} {part}")
    return variable


def share(constant: Any, identity: str) -> Any:
    """Store the constants of one identity once in weight.bin, for all functions; return it.

    Small constants need it too: Core ML compiles a weight separately for each function if its
    palettes are not shared.
    """
    constant.op.weight_id = identity
    return constant


def _append_axes(array: Array, ones: int) -> Array:
    return array.reshape(*array.shape, *(1,) * ones)
