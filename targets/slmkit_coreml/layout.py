"""How values lie in memory: ``ane``, channels before tokens (BC1S), and ``gpu``, tokens first.

A value is thought of as rows, one per token; an arrangement turns it and puts dimensions of 1 in.
The host turns arrays by it, the program its variables, and both know the shapes from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Arrangement:
    """A permutation, then new dimensions of 1 at these places."""

    order: tuple[int, ...]
    ones: tuple[int, ...]

    def array(self, rows: Array) -> Array:
        """Rows as they lie in memory."""
        return np.expand_dims(rows.transpose(self.order), self.ones)

    def shape(self, *sizes: int) -> tuple[int, ...]:
        """The shape of rows of these sizes, as they lie in memory."""
        return tuple(self.named(*sizes))

    def named(self, *sizes: Any) -> list[Any]:
        """The same with names for sizes that are not fixed."""
        found = [sizes[at] for at in self.order]
        for at in self.ones:
            found.insert(at, 1)
        return found

    def back(self, value: Array) -> Array:
        """The inverse of ``array``."""
        rows: Array = value.squeeze(self.ones).transpose(np.argsort(self.order))
        return rows


@dataclass(frozen=True)
class Layout:
    """Arrangements of what passes a package's border, and where the cache has its tokens."""

    name: str
    rows: Arrangement  # (T, D): embeddings, hidden state, logits
    table: Arrangement  # (T, d/2): cos, sin
    mask: Arrangement  # (T, S)
    keep: Arrangement  # (S,)
    place: Arrangement  # (T, S)
    token_axis: int  # of a cache [layers, ...]

    def cache(self, kv_heads: int, width: int, tokens: int) -> tuple[int, ...]:
        """Keys or values of one layer."""
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
