"""Changes of low rank as a file, which another process reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from slmkit.checkpoint.adapters.change import LowRank
from slmkit.checkpoint.safetensors import SafetensorsFile, SafetensorsWriter

UP, DOWN = ".up", ".down"


def save_low_ranks(low_ranks: Mapping[str, LowRank], path: Path) -> None:
    """Write ``NAME.up`` (N, r) and ``NAME.down`` (r, K) of each weight, float32."""
    arrays = {
        f"{name}{ending}": array
        for name, each in low_ranks.items()
        for ending, array in ((UP, each.up), (DOWN, each.down))
    }
    layout = {name: ("F32", each.shape) for name, each in arrays.items()}
    with SafetensorsWriter(path, layout) as writer:
        for name, array in arrays.items():
            writer.put(name, array)


def load_low_ranks(path: Path) -> dict[str, LowRank]:
    """The inverse of ``save_low_ranks``."""
    file = SafetensorsFile(path)
    names = [name.removesuffix(UP) for name in file.entries if name.endswith(UP)]
    return {name: LowRank(file.floats(name + UP), file.floats(name + DOWN)) for name in names}
