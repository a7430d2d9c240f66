"""The value type of the ``ort`` artifact's interpreter."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Value:
    """A tensor's name in the graph, and its shape after [batch, T].

    ``flat``: the tensor with the same heads concatenated, [batch, T, heads * d]; empty if there is
    none. ``slice_of``: the wider tensor that was split, and the index of this slice.
    """

    name: str
    shape: tuple[int, ...]
    flat: str = ""
    slice_of: tuple[str, int] = ("", 0)
