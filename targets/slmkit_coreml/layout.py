"""Memory layouts: ``ane``, channels before tokens (BC1S), and ``gpu``, tokens before channels.

A value is defined as rows, one per token. An arrangement permutes its axes and inserts axes of size
1. The host applies it to arrays, the program to its variables; both take the shapes from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Arrangement:
    """A permutation of the axes of rows, then new axes of size 1 at these positions."""

    order: tuple[int, ...]
    ones: tuple[int, ...]

    def from_rows(self, rows: Array) -> Array:
        """Arrange rows as the layout has them."""
        return np.expand_dims(rows.transpose(self.order), self.ones)

    def shape(self, *sizes: int) -> tuple[int, ...]:
        """The arranged shape of rows of these sizes."""
        return tuple(self.symbolic_shape(*sizes))

    def symbolic_shape(self, *sizes: Any) -> list[Any]:
        """The arranged shape of rows; sizes may be names, such as "tokens"."""
        dimensions = [sizes[axis] for axis in self.order]
        for axis in self.ones:
            dimensions.insert(axis, 1)
        return dimensions

    def to_rows(self, value: Array) -> Array:
        """Restore rows: the inverse of ``from_rows``."""
        rows: Array = value.squeeze(self.ones).transpose(np.argsort(self.order))
        return rows


@dataclass(frozen=True)
class Layout:
    """Arrangements of a package's inputs and outputs, and the token axis of its KV cache."""

    name: str
    rows: Arrangement  # (T, D): embeddings, hidden state, logits
    table: Arrangement  # (T, d/2): cos, sin
    mask: Arrangement  # (T, S)
    keep: Arrangement  # (S,)
    place: Arrangement  # (T, S)
    token_axis: int  # of a cache [layers, ...]

    def cache(self, kv_heads: int, width: int, tokens: int) -> tuple[int, ...]:
        """Shape of one layer's keys or values."""
        if self.token_axis == 3:
            return (kv_heads * width, 1, tokens)
        return (kv_heads, tokens, width)


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "ane",
            rows=Arrangement((1, 0), (0, 2)),  # [1, D, 1, T]
            table=Arrangement((1, 0), (0, 1)),  # [1, 1, d/2, T]
            mask=Arrangement((1, 0), (0, 2)),  # [1, S, 1, T]
            keep=Arrangement((0,), (0, 1, 2)),  # [1, 1, 1, S]
            place=Arrangement((0, 1), (0, 2)),  # [1, T, 1, S]
            token_axis=3,  # [layers, G * d, 1, S]
        ),
        Layout(
            "gpu",
            rows=Arrangement((0, 1), (0,)),  # [1, T, D]
            table=Arrangement((0, 1), (0, 1)),  # [1, 1, T, d/2]
            mask=Arrangement((0, 1), (0, 1)),  # [1, 1, T, S]
            keep=Arrangement((0,), (0, 1, 3)),  # [1, 1, S, 1]
            place=Arrangement((1, 0), (0, 1)),  # [1, 1, S, T]
            token_axis=2,  # [layers, G, S, d]
        ),
    )
}
