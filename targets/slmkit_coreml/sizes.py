"""Bytes of a weight in a package."""

from __future__ import annotations

from slmkit.recipe.scheme import Scheme

BLOB = 128  # bytes of a tensor's header and alignment in weight.bin, at most


def matrix_bytes(rows: int, width: int, scheme: Scheme) -> int:
    """Bytes of a matrix in weight.bin: codes with float16 scales or palettes, and headers."""
    if scheme.bits is None:
        return rows * width * 2 + BLOB
    if scheme.encoding == "palette":
        groups = -(-rows // (scheme.group_rows or rows))
        extra = groups * (2 << scheme.bits)
    else:
        extra = rows * -(-width // (scheme.group_size or width)) * 2
    return -(-rows * width * scheme.bits // 8) + extra + 2 * BLOB
