"""A model of the hub by the headers of its files: config, names, types and shapes of tensors.

Headers are asked for by range requests: a few hundred kilobytes of a model of any size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slmkit.checkpoint.formats.gguf.config import Source, config_of
from slmkit.checkpoint.formats.gguf.file import entry_of
from slmkit.checkpoint.formats.gguf.header import read_header
from slmkit.checkpoint.formats.gguf.names import places
from slmkit.checkpoint.formats.gguf.unpack import ENDING, metadata_of
from slmkit.checkpoint.formats.packed.file import with_packed
from slmkit.checkpoint.places.hub import HubModel, needed, reader, small_files
from slmkit.checkpoint.safetensors import Entry, read_entries
from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import summarize
from slmkit.models.config import Config, read_config, read_json
from slmkit.models.registry import read_spec


@dataclass(frozen=True)
class Headers:
    """A model by its headers."""

    name: str
    config: Config
    tensors: Mapping[str, Entry]  # by the model's names, where a format has names of its own
    size: int  # bytes of all tensors


def hub_headers(model: HubModel) -> Headers:
    """The headers of a model of the hub. Raises CheckpointError."""
    folder, commit, names = small_files(model)
    index = folder / "model.safetensors.index.json"
    files = needed(model, commit, names, lambda _: read_json(index))
    name = model.repo.split("/")[-1]
    parts = sorted(each for each in files if each.endswith(ENDING))
    if parts:
        config, tensors = _gguf(model, commit, parts)
        name = re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", Path(parts[0]).name)
    else:
        config, tensors = read_config(folder / "config.json"), {}
        for each in files:
            if each.endswith(".safetensors"):
                read, size = reader(model, commit, each)
                tensors |= read_entries(read, size, each)
        tensors = with_packed(tensors, config)
    total = sum(entry.stop - entry.start for entry in tensors.values())
    return Headers(name, config, tensors, total)


def _gguf(model: HubModel, commit: str, parts: list[str]) -> tuple[Config, dict[str, Entry]]:
    raw: dict[str, Entry] = {}
    metadata: tuple[str, Config] | None = None
    for part in parts:
        read, size = reader(model, commit, part)
        header = read_header(read, part)
        metadata = metadata or metadata_of(header.metadata, part)
        raw |= {
            name: entry_of(name, facts, header, size, part)
            for name, facts in header.tensors.items()
        }
    if metadata is None:
        raise CheckpointError(f"{model} has no GGUF file", "name another one")
    architecture, facts = metadata
    shapes = {name: entry.shape for name, entry in raw.items()}
    values = json.loads(json.dumps(config_of(Source(architecture, facts, shapes))))
    config = Config(values, facts.where)
    spec = read_spec(config)
    weights = summarize(spec).weights
    found = places(weights, architecture, spec.layers, spec.heads, spec.kv_heads)
    named = {tensor: raw[place.name] for tensor, place in found.items() if place.name in raw}
    return config, named
