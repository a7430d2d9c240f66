"""How codes become Core ML constants: the bundle's own integers, scales and palettes.

``constexpr_blockwise_shift_scale`` holds int4 or int8 codes with float16 scales: [O, 1] per
channel, [O, I / group] group-wise. ``constexpr_lut_to_dense`` holds 4- or 6-bit indices and a
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
INTEGERS = {4: types.int4, 8: types.int8}
INDICES = {4: types.uint4, 6: types.uint6}


class WeightWriter:
    """Makes the constants of one function, each once; ``arrays`` are those of all functions."""

    def __init__(self, codes: CodesFile, arrays: dict[str, tuple[Array, ...]]) -> None:
        self.codes = codes
        self.arrays = arrays
        self.made: dict[str, Any] = {}

    def matrix(self, name: str, rows: slice, label: str, ones: int = 0) -> Any:
        """Some rows of a matrix with dimensions of 1 after it: two make a 1x1 convolution's weight.

        A last group of rows that is not whole is filled up: the caller cuts the result.
        """
        if label not in self.arrays:
            self.arrays[label] = self._arrays(name, rows, ones)
        if label not in self.made:
            self.made[label] = _constant(self.codes.schemes[name], self.arrays[label], label)
        return self.made[label]

    def vector(self, tensor: str, some: slice, after: int) -> Any:
        """A norm's weight or some of a bias as float16, with so many dimensions of 1 after it."""
        values = self.codes.vector(tensor)[some].astype(np.float16)
        variable = mb.const(val=values.reshape(-1, *(1,) * after))
        return shared(variable, f"{tensor} {some.start}")

    def bias(self, tensor: str, rows: int) -> Any:
        """A bias filled up with zeros, or zeros: a linear without would get its own everywhere."""
        values = self.codes.vector(tensor) if tensor else np.zeros(0)
        filled = np.pad(values, (0, rows - len(values))).astype(np.float16)
        return shared(mb.const(val=filled), tensor or f"{rows} zeros")

    def _arrays(self, name: str, rows: slice, ones: int) -> tuple[Array, ...]:
        scheme, width = self.codes.schemes[name], self.codes.shapes[name][1]
        if scheme.encoding == "palette":
            return self._palette(name, rows, ones)
        if scheme.bits is None:
            return (_beside(self.codes.halves(name)[rows], ones),)
        codes = self.codes.codes(name, rows)
        signed = codes.signed[:, :width].astype(types.nptype_from_builtin(INTEGERS[scheme.bits]))
        return _beside(signed, ones), _beside(codes.scales.astype(np.float16), ones)

    def _palette(self, name: str, rows: slice, ones: int) -> tuple[Array, ...]:
        scheme = self.codes.schemes[name]
        found = self.codes.palette(name, rows)
        palettes = found.palettes.astype(np.float16)
        missing = len(palettes) * (scheme.group_rows or 1) - len(found.codes)
        codes = np.pad(found.codes, ((0, missing), (0, 0)))
        indices = codes.astype(types.nptype_from_builtin(INDICES[scheme.bits or 4]))
        shape = (len(palettes), 1, *(1,) * ones, palettes.shape[1], 1)
        return _beside(indices, ones), palettes.reshape(shape)


def _constant(scheme: Scheme, arrays: tuple[Array, ...], label: str) -> Any:
    if scheme.encoding == "float16":
        return shared(mb.const(val=arrays[0], name=label), label)
    if scheme.encoding == "palette":
        variable = mb.constexpr_lut_to_dense(indices=arrays[0], lut=arrays[1], name=label)
    else:
        variable = mb.constexpr_blockwise_shift_scale(data=arrays[0], scale=arrays[1], name=label)
    for part, each in variable.op.inputs.items():
        if each is not None:
            shared(each, f"{label} {part}")
    return variable


def shared(constant: Any, identity: str) -> Any:
    """All functions' constants of one identity are one blob of weight.bin, whatever its size:
    Core ML compiles weights apart whose palettes are not shared too."""
    constant.op.weight_id = identity
    return constant


def _beside(array: Array, ones: int) -> Array:
    return array.reshape(*array.shape, *(1,) * ones)
