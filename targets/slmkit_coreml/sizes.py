"""Bytes of a weight in a package."""

from __future__ import annotations

from slmkit.recipe.scheme import Scheme

BLOB = 128  # bytes of a tensor's header and alignment in weight.bin, at most


def matrix_bytes(rows: int, width: int, scheme: Scheme) -> int:
    """Codes with float16 scales or palettes, as weight.bin holds them."""
    if scheme.bits is None:
        return rows * width * 2 + BLOB
    if scheme.encoding == "palette":
        groups = -(-rows // (scheme.group_rows or rows))
        beside = groups * (2 << scheme.bits)
    else:
        beside = rows * -(-width // (scheme.group_size or width)) * 2
    return -(-rows * width * scheme.bits // 8) + beside + 2 * BLOB
