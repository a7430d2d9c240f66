"""Units of a model (its layers, its head) and how they are joined into parts.

HTP is a 32-bit machine: a graph must stay below 2 GB, a context (prefill and decode, sharing their
weights) below 4 GB. A model that would pass them is cut between layers, with the head apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from slmkit.quant.codes import Scheme, padded_width

GRAPH_LIMIT = 2 * 10**9  # bytes of weights in one graph: QNN serializes with 32-bit offsets
TABLE_LIMIT = 64 * 10**6  # bytes of a uint16 embedding table inside the graph; above: on the host
VECTOR = 2  # bytes of one number of a norm or bias
Shapes = Mapping[str, tuple[int, ...]]  # weight name -> shape


@dataclass(frozen=True)
class Part:
    """Units ``first`` to ``last``, both included; unit L is the final norm and the head."""

    name: str
    first: int
    last: int


def unit_of(weight: str, layers: int) -> int:
    """The layer of ``model.layers.3.mlp.up_proj``; L for what is outside the layers."""
    _, inside, after = weight.partition(".layers.")
    return int(after.partition(".")[0]) if inside else layers


def matrix_bytes(rows: int, width: int, scheme: Scheme) -> int:
    """One matrix in HTP's memory: codes, multipliers of 8 bits, a float scale per channel."""
    bits = scheme.bits or 16
    blocks = padded_width(scheme, width) // (scheme.group_size or 32) if bits == 4 else 0
    return rows * (padded_width(scheme, width) * bits // 8 + blocks + 4)


def unit_bytes(
    matrices: Shapes, vectors: Shapes, schemes: Mapping[str, Scheme], layers: int
) -> list[int]:
    """Weights of each layer, then of the head; an embedding that is only looked up is no part."""
    sizes = [0] * (layers + 1)
    for name, shape in matrices.items():
        sizes[unit_of(name, layers)] += matrix_bytes(shape[0], shape[1], schemes[name])
    for name, shape in vectors.items():
        sizes[unit_of(name, layers)] += shape[0] * VECTOR
    return sizes


def plan_parts(sizes: Sequence[int], limit: int) -> list[Part]:
    """One part if everything fits, else the head apart and the layers in even runs.

    Each unit must fit: ``problems`` refuses a model with a larger one.
    """
    layers = len(sizes) - 1
    if sum(sizes) <= limit:
        return [Part("model", 0, layers)]
    fewest = -(-sum(sizes[:layers]) // limit)
    for count in range(fewest, layers + 1):
        parts = _runs(layers, count)
        if all(sum(sizes[part.first : part.last + 1]) <= limit for part in parts):
            break
    return [*parts, Part("head", layers, layers)]


def every_unit(layers: int) -> list[Part]:
    """Each unit a part of its own: to calibrate one layer after the other."""
    return [*(_layers(layer, layer) for layer in range(layers)), Part("head", layers, layers)]


def first_and_last(layers: int) -> list[Part]:
    """The first and the last layer apart: what runs on the emulator of a model too large for it."""
    middle = [_layers(1, layers - 2)] if layers > 2 else []
    last = [_layers(layers - 1, layers - 1)] if layers > 1 else []
    return [_layers(0, 0), *middle, *last, Part("head", layers, layers)]


def _layers(first: int, last: int) -> Part:
    return Part(f"layers.{first}-{last}", first, last)


def _runs(layers: int, count: int) -> list[Part]:
    """All layers in ``count`` runs of nearly equal length."""
    bounds = [layers * at // count for at in range(count + 1)]
    return [_layers(start, end - 1) for start, end in pairwise(bounds)]
