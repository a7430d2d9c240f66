"""Write an adapter as ONNX Runtime's ``.onnx_adapter`` file, for a graph with places for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime

from slmkit.backend.interface import Artifact, LowRank
from slmkit_onnx.ort.lowering.adapters import places_of

ADAPTER = "adapter.onnx_adapter"
VERSION = 1  # of the adapter and of the model, by the writer's own count
HOW = "build the bundle with --option ort.adapters=all, or with a list of names of linears"


def adapter_problems(artifact: Artifact, names: Sequence[str]) -> list[str]:
    """Why an adapter of these weights cannot be used beside the artifact, one sentence each."""
    places = places_of(artifact.facts)
    if not places:
        return [f"the artifact ort was built without places for adapters: {HOW}"]
    able = {name for place in places for name in place.weights}
    missing = [name for name in names if name not in able]
    if not missing:
        return []
    more = f" and {len(missing) - 1} more" if missing[1:] else ""
    return [f"the artifact ort has no place for an adapter of {missing[0]}{more}: {HOW}"]


def write_adapter(artifact: Artifact, low_ranks: Mapping[str, LowRank], folder: Path) -> str:
    """Write the file into ``folder``; its name. The same adapter gives the same bytes."""
    parameters = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(array)
        for place in places_of(artifact.facts)
        for name, array in sorted(place.parameters(low_ranks).items())
    }
    file = onnxruntime.AdapterFormat()
    file.set_adapter_version(VERSION)
    file.set_model_version(VERSION)
    file.set_parameters(parameters)
    file.export_adapter(str(folder / ADAPTER))
    return ADAPTER
