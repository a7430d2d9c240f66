"""Names of tensors: those of a model, and where a GGUF file has them.

The names come from the package ``gguf``, which llama.cpp's converter uses too. Experts are stacked
in one tensor there. Rows of q and k are interleaved where llama.cpp rotates neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.formats.gguf.library import library

ROTATES_NEIGHBOURS = ("llama", "granite", "smollm3")  # llama.cpp: LLAMA_ROPE_TYPE_NORM
EXPERT = re.compile(r"\.experts\.(\d+)\.")
# Tensors that metadata of rope become: they are read with the metadata.
OF_ROPE = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@dataclass(frozen=True)
class Place:
    """Where a file has one tensor of a model."""

    name: str
    expert: int | None = None  # index in a stack
    heads: int = 0  # rows are interleaved within each of so many heads; 0: they are not


def places(
    tensors: Iterable[str], architecture: str, layers: int, heads: int, kv_heads: int
) -> dict[str, Place]:
    """The places of a model's tensors, as far as the architecture has names for them."""
    gguf = library()
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], layers)
    found = {}
    for tensor in tensors:
        expert = EXPERT.search(tensor)
        name = names.get_name(EXPERT.sub(".experts.", tensor), (".weight", ".bias"))
        if name is None:
            continue
        interleaved = 0
        if architecture in ROTATES_NEIGHBOURS and re.search(r"\.(q|k)_proj\.", tensor):
            interleaved = heads if ".q_proj." in tensor else kv_heads
        found[tensor] = Place(name, int(expert[1]) if expert else None, interleaved)
    return found


def stored_rows(rows: int, heads: int) -> NDArray[np.int64]:
    """Indices (rows,) of the stored rows in the model's order: halves of each head, which the file
    has pair by pair."""
    order = np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
    return order.astype(np.int64)
