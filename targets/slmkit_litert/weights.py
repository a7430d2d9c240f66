"""The bundle's codes in the types that LiteRT stores: never requantized, with exact scales.

int8 and int4 per channel with float32 scales, int4 in groups with float16 scales, otherwise
float32. XNNPACK rounds the scales of groups to bfloat16; ours have 8 significant bits, so this
changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from ai_edge_litert.schema_py_generated import TensorType
from numpy.typing import NDArray

from slmkit.errors import BackendError
from slmkit.quant.codes import CodesFile, pack
from slmkit_litert.lowering.weight_binding import Array, StoredWeight
from slmkit_litert.lowering.weight_layout import COLUMNS, MASK, PART, SELECTION, Shape

TYPES = {4: TensorType.INT4, 8: TensorType.INT8}  # by bits
BLOCK = 1 << 22  # numbers that are dequantized at a time
SIGN = {4: 0x88, 8: 128}  # by bits: from 0 .. 15 or 0 .. 255 to two's complement


def encode_weight(codes: CodesFile, tensor: str, shape: tuple[int, ...]) -> StoredWeight:
    """A weight by tensor name; ``shape``: in the graph template, rows padded to whole groups."""
    for ending, encode in _OF_OUTLIERS.items():
        if tensor.endswith(ending):
            return encode(codes, tensor.removesuffix(ending), shape)
    of_part = PART.fullmatch(tensor)
    if of_part:
        return _integers(codes, of_part[1], int(of_part[2]) * shape[1], shape)
    name = tensor.removesuffix(".weight")
    if name not in codes.schemes:
        return StoredWeight(TensorType.FLOAT32, shape, codes.vector(tensor))
    if codes.schemes[name].bits is None:
        return StoredWeight(TensorType.FLOAT32, shape, codes.rows(tensor, slice(None)))
    return _integers(codes, name, 0, shape)


def _integers(codes: CodesFile, name: str, first: int, shape: Shape) -> StoredWeight:
    """A weight in 4 or 8 bits: all inputs from ``first`` on that ``shape`` has room for."""
    scheme, group, columns = codes.schemes[name], codes.schemes[name].group_size, shape[1]
    bits = scheme.bits or 8
    if columns * bits % 8 == 0:  # whole bytes
        packed = codes.packed(name)[:, first * bits // 8 : (first + columns) * bits // 8]
        data = packed ^ np.uint8(SIGN[bits])
    else:
        data = pack_signed(codes.codes(name).signed[:, :columns])
    codes.forget(name)
    kind, scales = TYPES[bits], codes.scales(name)
    if group is None:
        return StoredWeight(kind, shape, data, scales[:, 0])
    own = scales[:, first // group : -(-(first + columns) // group)]
    return StoredWeight(kind, shape, data, own.astype(np.float16), group)


def _columns(codes: CodesFile, name: str, shape: Shape) -> StoredWeight:
    scheme, scales = codes.schemes[name], codes.scales(name)
    signed = np.ascontiguousarray(codes.codes(name).signed[:, _outliers(codes, name, shape[1])])
    codes.forget(name)
    if scheme.bits == 8:
        return StoredWeight(TensorType.INT8, shape, signed.view(np.uint8), scales[:, 0])
    return StoredWeight(TensorType.INT4, shape, pack_signed(signed), scales[:, 0])


def _selection(codes: CodesFile, name: str, shape: Shape) -> StoredWeight:
    selection = np.zeros(shape, np.float32)
    selection[np.arange(shape[0]), _outliers(codes, name, shape[0])] = 1
    return StoredWeight(TensorType.FLOAT32, shape, selection)


def _mask(codes: CodesFile, name: str, shape: Shape) -> StoredWeight:
    mask = np.ones(shape, np.float32)
    mask[list(codes.outliers[name])] = 0
    return StoredWeight(TensorType.FLOAT32, shape, mask)


def _outliers(codes: CodesFile, name: str, count: int) -> list[int]:
    channels = list(codes.outliers[name])
    if len(channels) != count:
        raise BackendError(
            f"the codes name {len(channels)} outlier channels of {name}, the graph has {count}",
            "please report this",
        )
    return channels


_OF_OUTLIERS = {COLUMNS: _columns, SELECTION: _selection, MASK: _mask}


def pack_signed(signed: Array) -> Array:
    """Pack int8 codes of -8 .. 7 as two's complement nibbles, the first in the low half of a byte.

    Rows follow each other without padding.
    """
    raw: NDArray[np.uint8] = np.ascontiguousarray(signed).reshape(-1).view(np.uint8)
    nibbles = raw & np.uint8(15)
    if len(nibbles) % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    return pack(nibbles, 4)


def dequantized(weight: StoredWeight) -> Iterator[Array]:
    """``dequantize``, some rows at a time: a head in float32 is larger than a model's codes."""
    if weight.scales is None:
        yield dequantize(weight)
        return
    rows, columns = weight.shape[0], math.prod(weight.shape[1:])
    bits = next(bits for bits, kind in TYPES.items() if kind == weight.type)
    step = max(2, BLOCK // columns // 2 * 2)  # even: two codes of 4 bits share a byte
    for at in range(0, rows, step):
        count = min(step, rows - at)
        yield dequantize(
            replace(
                weight,
                shape=(count, *weight.shape[1:]),
                data=weight.data[at * columns * bits // 8 : -(-(at + count) * columns * bits // 8)],
                scales=weight.scales[at : at + count],
            )
        )


def dequantize(weight: StoredWeight) -> Array:
    """The numbers that a stored weight represents, float32, in its shape."""
    rows = weight.shape[0]
    if weight.scales is None:
        return weight.data.view(np.float32).reshape(weight.shape)
    if weight.type == TensorType.INT8:
        codes = weight.data.view(np.int8)
    else:
        nibbles = np.stack([weight.data & 15, weight.data >> 4], axis=1).reshape(-1)
        nibbles = nibbles[: rows * weight.shape[1]]
        codes = (nibbles ^ 8).astype(np.int8) - np.int8(8)
    scales = weight.scales.reshape(rows, -1, 1).astype(np.float32)
    grouped = codes.reshape(rows, scales.shape[1], -1)
    product: Array = (grouped * scales).reshape(weight.shape)
    return product
