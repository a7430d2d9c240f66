"""How the parameters are shared out among files, by shapes alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from slmkit.backend.interface import Model, WeightFile
from slmkit.recipe.scheme import Scheme
from slmkit_mlc.params import N_MAJOR, table_of

PARAMS = "params"
SHARD_MB = 32  # of a file of parameters: what MLC's apps download at a time
LIMIT = SHARD_MB << 20  # bytes


def weight_files(
    model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any], context_length: int
) -> list[WeightFile]:
    """The shards; each layout of a weight has its bytes."""
    sizes = [param.size for param in table_of(model, schemes, N_MAJOR).params]
    return [
        WeightFile(f"{PARAMS}/params_shard_{number}.bin", size, "parameters")
        for number, size in enumerate(shard_sizes(sizes))
    ]


def shard_sizes(sizes: Iterable[int], limit: int = LIMIT) -> list[int]:
    """As tvm.contrib.tvmjs.dump_tensor_cache has it (0.27.0.post1): a parameter that a shard has no
    room for begins the next one, or is one by itself if it takes half a shard or more."""
    found, pending = [], 0
    for size in sizes:
        if pending + size >= limit and 2 * size >= limit:
            found.append(size)
            continue
        if pending + size >= limit and pending:
            found.append(pending)
            pending = 0
        pending += size
    return [*found, *([pending] if pending else [])]
