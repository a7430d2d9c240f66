"""Sizes of the files of parameters (shards), computed from shapes alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from slmkit.backend.interface import Model, WeightFile
from slmkit.recipe.scheme import Scheme
from slmkit_mlc.params import N_MAJOR, table_of

PARAMS = "params"
SHARD_MB = 32  # largest shard: MLC's apps download a shard at a time
SHARD_BYTES = SHARD_MB << 20


def weight_files(
    model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any], context_length: int
) -> list[WeightFile]:
    """The shards; the layout of weights does not matter, as both have the same sizes."""
    sizes = [param.size for param in table_of(model, schemes, N_MAJOR).params]
    return [
        WeightFile(f"{PARAMS}/params_shard_{number}.bin", size, "parameters")
        for number, size in enumerate(shard_sizes(sizes))
    ]


def shard_sizes(sizes: Iterable[int], limit: int = SHARD_BYTES) -> list[int]:
    """Sizes in bytes of the shards that parameters of these sizes are written to, in order.

    A parameter that does not fit into the current shard starts the next one; if it is at least half
    a shard, it becomes a shard of its own at once, before the current one is finished. Source:
    tvm.contrib.tvmjs.dump_tensor_cache (0.27.0.post1).
    """
    shards, pending = [], 0
    for size in sizes:
        if pending + size >= limit and 2 * size >= limit:
            shards.append(size)
            continue
        if pending + size >= limit and pending:
            shards.append(pending)
            pending = 0
        pending += size
    if pending:
        shards.append(pending)
    return shards
