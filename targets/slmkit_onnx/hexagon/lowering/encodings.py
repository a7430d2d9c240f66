"""Per-tensor encodings of activations as integers: scale and zero point.

real = (integer - zero_point) * scale. Activations are uint16; cached keys and values are symmetric,
because HTP multiplies two activations exactly only if the second one is int16 with zero point 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmkit.ops import Floats

LIMITS = {"uint8": (0, 255), "uint16": (0, 65535), "int16": (-32768, 32767)}
MIN_WIDTH = 1e-4  # of a range: that of a value that is always zero
Range = tuple[float, float]  # lowest and highest real value
Ranges = Mapping[str, Range]  # by the name of a tensor


@dataclass(frozen=True)
class Encoding:
    """A per-tensor integer type."""

    dtype: str
    scale: float  # exact in float32
    zero_point: int

    def quantize(self, values: Floats) -> NDArray[np.integer]:
        """Round to the nearest integers, saturated at the type's limits."""
        low, high = LIMITS[self.dtype]
        integers = np.rint(values / np.float32(self.scale)) + self.zero_point
        result: NDArray[np.integer] = np.clip(integers, low, high).astype(self.dtype)
        return result

    def dequantize(self, integers: NDArray[np.integer]) -> Floats:
        """The real values of integers, float32."""
        return (integers.astype(np.float32) - self.zero_point) * np.float32(self.scale)


def asymmetric(span: Range, dtype: str = "uint16") -> Encoding:
    """The encoding that covers a range, extended to contain zero; zero is exact."""
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    lowest, highest = LIMITS[dtype]
    scale = np.float32(max(high - low, MIN_WIDTH) / (highest - lowest))
    zero_point = int(np.clip(round(lowest - low / scale), lowest, highest))
    return Encoding(dtype, float(scale), zero_point)


def symmetric(span: Range, dtype: str = "int16") -> Encoding:
    """The encoding that covers a range, its zero point in the middle: 0, for uint8 128."""
    lowest, highest = LIMITS[dtype]
    middle = (lowest + highest + 1) // 2
    magnitude = max(-span[0], span[1], MIN_WIDTH)
    return Encoding(dtype, float(np.float32(magnitude / (highest - middle))), middle)


ZERO_TO_ONE = asymmetric((0.0, 1.0))  # outputs of softmax and sigmoid
MINUS_ONE_TO_ONE = asymmetric((-1.0, 1.0))  # outputs of tanh
