"""What flows through the graph of the ``ort`` artifact."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Value:
    """A tensor's name in the graph, and its shape after [batch, T].

    ``flat``: the same heads side by side, [batch, T, heads * d], where that exists.
    ``part``: of which wider tensor this is a part, and the how many-th.
    """

    name: str
    shape: tuple[int, ...]
    flat: str = ""
    part: tuple[str, int] = ("", 0)
