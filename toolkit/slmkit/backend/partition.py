"""Cut a model into parts of a bounded size: whole layers, and the head.

A unit is one layer, or the head with the final norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from slmkit.interpreters.recorder import Model
from slmkit.models.names import layer_of
from slmkit.recipe.scheme import Scheme

VECTOR = 2  # bytes of one number of a norm or bias
MatrixBytes = Callable[[int, int, Scheme], int]  # (rows, width, scheme) -> bytes


@dataclass(frozen=True)
class Part:
    """Units ``first`` to ``last``, both included; unit L is the head with the final norm."""

    name: str
    first: int
    last: int

    def layers(self, layers: int) -> range:
        """The layers in the part, of a model with ``layers`` layers."""
        return range(self.first, min(self.last + 1, layers))

    def bytes_of(self, sizes: Sequence[int]) -> int:
        """Bytes of the part, from the bytes of all units."""
        return sum(sizes[self.first : self.last + 1])

    def about(self, layers: int) -> str:
        """The part's content in words: "layers 0 to 3 and the head"."""
        found = self.layers(layers)
        run = [f"layers {found[0]} to {found[-1]}" if found[1:] else f"layer {self.first}"]
        return " and ".join([*run[: len(found)], *(["the head"] if self.last == layers else [])])


def unit_of(weight: str, layers: int) -> int:
    """The unit of a weight: its layer's number; L for a weight outside the layers."""
    layer = layer_of(weight)
    return layers if layer is None else layer


def unit_bytes(model: Model, schemes: Mapping[str, Scheme], matrix_bytes: MatrixBytes) -> list[int]:
    """Bytes of each layer's weights, then of the head's. Tables that are only looked up are left
    out."""
    layers = model.spec.layers
    sizes = [0] * (layers + 1)
    for name in model.multiplied:
        rows, width = model.shapes[name]
        sizes[unit_of(name, layers)] += matrix_bytes(rows, width, schemes[name])
    for name, shape in model.shapes.items():
        if len(shape) == 1:
            sizes[unit_of(name, layers)] += shape[0] * VECTOR
    return sizes


def too_large(sizes: Sequence[int], limit: int, artifact: str) -> list[str]:
    """Describe each unit that is larger than a part may be, one sentence each."""
    head = len(sizes) - 1
    return [
        f"{artifact}: {'the head' if unit == head else f'layer {unit}'} has {size} bytes of "
        f"weights, the limit of a part is {limit}"
        for unit, size in enumerate(sizes)
        if size > limit
    ]


def plan_parts(sizes: Sequence[int], limit: int) -> list[Part]:
    """Plan one part if everything fits, else the head apart and the layers in even runs.

    Each unit must fit: ask ``too_large`` before.
    """
    layers = len(sizes) - 1
    if sum(sizes) <= limit:
        return [Part("model", 0, layers)]
    fewest = -(-sum(sizes[:layers]) // limit)
    for count in range(fewest, layers + 1):
        parts = _runs(layers, count)
        if all(part.bytes_of(sizes) <= limit for part in parts):
            break
    return [*parts, head_part(layers)]


def layers_part(first: int, last: int) -> Part:
    """A part of some layers."""
    return Part(f"layers.{first}-{last}", first, last)


def head_part(layers: int) -> Part:
    """The part of final norm and head alone."""
    return Part("head", layers, layers)


def _runs(layers: int, count: int) -> list[Part]:
    """Split all layers into ``count`` runs of nearly equal length."""
    bounds = [layers * at // count for at in range(count + 1)]
    return [layers_part(start, end - 1) for start, end in pairwise(bounds)]
