"""How codes become Core ML constants: the bundle's own integers and scales.

``constexpr_blockwise_shift_scale`` holds int4 or int8 codes with float16 scales: [O, 1] per
channel, [O, I / group] group-wise. Our scales are exact in float16, so nothing is rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - as its own documents have it
from coremltools.converters.mil.mil import types

from slmkit.ops import Floats
from slmkit.quant.codes import CodesFile, Scheme


def refused(scheme: Scheme, width: int, multiplied: bool) -> str:
    """Why Core ML (or the embedding file) cannot take a weight as it is; empty if it can."""
    if not scheme.symmetric:
        return "asymmetric codes are not written yet: use symmetric: true"
    if multiplied and scheme.group_size and width % scheme.group_size:
        return f"{width} inputs are no multiple of its groups: use encoding: per-channel"
    return ""


class WeightWriter:
    """Makes the constants of the function under construction."""

    def __init__(self, codes: CodesFile) -> None:
        self.codes = codes

    def kernel(self, name: str, rows: slice, label: str) -> Any:
        """Some rows of a linear as the weight of a 1x1 convolution, [O, I, 1, 1]."""
        scheme, width = self.codes.schemes[name], self.codes.shapes[name][1]
        if scheme.bits is None:
            halves = self.codes.halves(name)[rows]
            return mb.const(val=halves.reshape(*halves.shape, 1, 1), name=label)
        codes = self.codes.codes(name, rows)
        signed = codes.signed[:, :width]
        if scheme.bits == 4:
            signed = signed.astype(types.nptype_from_builtin(types.int4))
        scales = codes.scales.astype(np.float16)
        return mb.constexpr_blockwise_shift_scale(
            data=signed.reshape(*signed.shape, 1, 1), scale=scales.reshape(*scales.shape, 1, 1),
            name=label,
        )  # fmt: skip

    def vector(self, tensor: str) -> Floats:
        """A norm's weight or a bias."""
        return self.codes.vector(tensor)
