"""Size limits of HTP's graphs, and divisions of a model into parts.

HTP is a 32-bit machine: a graph must stay below 2 GB, a context (prefill and decode, sharing their
weights) below 4 GB. A larger model is split between layers, the head in a part of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from slmkit.backend.partition import Part, head_part, layers_part
from slmkit.quant.codes import padded_width
from slmkit.recipe.scheme import Scheme

GRAPH_LIMIT = 2 * 10**9  # bytes of weights in one graph: QNN serializes with 32-bit offsets
PART_LIMIT = 150 * 10**6  # bytes by default: QNN's compiler needs ten times as much memory
TABLE_LIMIT = 64 * 10**6  # bytes of a uint16 embedding table inside the graph; above: on the host


def matrix_bytes(rows: int, width: int, scheme: Scheme) -> int:
    """Bytes of a matrix on HTP: codes, 8-bit multipliers, a float32 scale per channel."""
    bits = scheme.bits or 16
    blocks = padded_width(scheme, width) // (scheme.group_size or 32) if bits == 4 else 0
    return rows * (padded_width(scheme, width) * bits // 8 + blocks + 4)


def every_unit(layers: int) -> list[Part]:
    """Parts of one unit each (a layer, or the head), for calibration."""
    return [*(layers_part(layer, layer) for layer in range(layers)), head_part(layers)]


def first_and_last(parts: Sequence[Part], layers: int) -> list[Part]:
    """``parts`` with the first and the last layer cut off, and the head: for models too large for
    the emulator, which runs these two layers."""
    starts = {0, 1, layers - 1, layers} | {part.first for part in parts}
    bounds = [*sorted(starts), layers + 1]
    runs = [(start, end - 1) for start, end in pairwise(bounds)]
    return [
        head_part(layers) if first == layers else layers_part(first, last) for first, last in runs
    ]
