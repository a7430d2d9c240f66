"""How numbers between the weights become integers: scale and zero point, per tensor.

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
SMALLEST = 1e-4  # width of a range that holds nothing but zeros
Range = tuple[float, float]  # lowest and highest real value
Ranges = Mapping[str, Range]  # by the name of a tensor


@dataclass(frozen=True)
class Encoding:
    """A per-tensor integer type."""

    dtype: str
    scale: float  # exact in float32
    zero_point: int

    def quantize(self, values: Floats) -> NDArray[np.integer]:
        """The nearest integers, saturated at the type's limits."""
        low, high = LIMITS[self.dtype]
        integers = np.rint(values / np.float32(self.scale)) + self.zero_point
        result: NDArray[np.integer] = np.clip(integers, low, high).astype(self.dtype)
        return result

    def dequantize(self, integers: NDArray[np.integer]) -> Floats:
        """The numbers that the integers mean, float32."""
        return (integers.astype(np.float32) - self.zero_point) * np.float32(self.scale)


def asymmetric(span: Range, dtype: str = "uint16") -> Encoding:
    """The encoding that covers a range; zero is always exact."""
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    least, most = LIMITS[dtype]
    scale = np.float32(max(high - low, SMALLEST) / (most - least))
    return Encoding(dtype, float(scale), int(np.clip(round(least - low / scale), least, most)))


def symmetric(span: Range, dtype: str = "int16") -> Encoding:
    """The encoding with zero in the middle; for uint8, 128."""
    least, most = LIMITS[dtype]
    middle = (least + most + 1) // 2
    reach = max(-span[0], span[1], SMALLEST)
    return Encoding(dtype, float(np.float32(reach / (most - middle))), middle)


UNIT = asymmetric((0.0, 1.0))  # what softmax, sigmoid and fading give
