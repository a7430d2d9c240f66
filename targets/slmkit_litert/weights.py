"""The bundle's codes as LiteRT holds them: never requantized, scales exact in every type.

int8 and int4 per channel with float32 scales, int4 in groups with float16 scales, float32 else.
XNNPACK rounds group scales to bfloat16: ours have 8 significant bits, so nothing changes.
"""

from __future__ import annotations

import numpy as np
from ai_edge_litert.schema_py_generated import TensorType
from numpy.typing import NDArray

from slmkit.quant.codes import CodesFile, pack, padded_width
from slmkit_litert.lowering.weight_binding import Array, Bound


def bound(codes: CodesFile, tensor: str, shape: tuple[int, ...]) -> Bound:
    """A weight by tensor name; ``shape`` as the skeleton has it, rows filled up to whole groups."""
    name = tensor.removesuffix(".weight")
    if name not in codes.schemes:
        return Bound(TensorType.FLOAT32, shape, codes.vector(tensor))
    scheme = codes.schemes[name]
    if scheme.bits is None:
        return Bound(TensorType.FLOAT32, shape, codes.rows(tensor, slice(None)))
    scales = codes.scales(name)
    if scheme.bits == 8:
        return Bound(TensorType.INT8, shape, codes.packed(name) ^ np.uint8(128), scales[:, 0])
    if padded_width(scheme, codes.shapes[name][1]) == shape[1]:
        packed = codes.packed(name) ^ np.uint8(0x88)  # from 0 .. 15 to two's complement
    else:
        packed = pack_signed(codes.codes(name).signed[:, : shape[1]])
    if scheme.group_size is None:
        return Bound(TensorType.INT4, shape, packed, scales[:, 0])
    return Bound(TensorType.INT4, shape, packed, scales.astype(np.float16), scheme.group_size)


def pack_signed(signed: Array) -> Array:
    """Two's complement nibbles, row after row without padding, the low one first."""
    raw: NDArray[np.uint8] = np.ascontiguousarray(signed).reshape(-1).view(np.uint8)
    nibbles = raw & np.uint8(15)
    if len(nibbles) % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    return pack(nibbles, 4)


def dequantized(weight: Bound) -> Array:
    """What a weight of a file means, float32."""
    rows = weight.shape[0]
    if weight.scales is None:
        return weight.data.view(np.float32).reshape(weight.shape)
    if weight.type == TensorType.INT8:
        codes = weight.data.view(np.int8)
    else:
        codes = np.stack([weight.data & 15, weight.data >> 4], axis=1).reshape(-1)
        codes = (codes[: rows * weight.shape[1]] ^ 8).astype(np.int8) - np.int8(8)
    scales = weight.scales.reshape(rows, -1, 1).astype(np.float32)
    grouped = codes.reshape(rows, scales.shape[1], -1)
    product: Array = (grouped * scales).reshape(weight.shape)
    return product
