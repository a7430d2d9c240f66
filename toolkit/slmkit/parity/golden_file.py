"""Golden prompts and answers as a file, which every bundle keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.safetensors import SafetensorsFile, SafetensorsWriter
from slmkit.parity.crossing import Crossing
from slmkit.parity.golden import Crossed, Golden, Outputs

OUTPUTS = ("columns", "values", "norm", "best")  # arrays of ``Outputs``, in its order


def save_golden(golden: Golden, path: Path) -> None:
    """Write to a safetensors file; the same golden gives the same bytes."""
    lengths = [len(ids) for ids in golden.sequences]
    arrays: dict[str, NDArray[Any]] = {
        "ids": np.concatenate(golden.sequences).astype(np.int64),
        "lengths": np.asarray(lengths, dtype=np.int64),
        "prompt_lengths": np.asarray(golden.prompt_lengths, dtype=np.int64),
        **_arrays_of(golden.outputs),
    }
    if golden.crossed is not None:
        crossing, outputs = golden.crossed.crossing, golden.crossed.outputs
        arrays |= {
            "crossing_ids": crossing.ids.astype(np.int64),
            "crossing_kept": np.asarray(crossing.kept, dtype=np.int64),
            "crossing_chunk": np.asarray([crossing.chunk], dtype=np.int64),
            **{f"crossing_{name}": each for name, each in _arrays_of(outputs).items()},
        }
    kinds = {"int64": "I64", "float32": "F32", "float64": "F64"}
    layout = {name: (kinds[array.dtype.name], array.shape) for name, array in arrays.items()}
    facts = {"names": json.dumps(golden.names), "texts": str(golden.texts)}
    with SafetensorsWriter(path, layout, facts) as writer:
        for name, array in arrays.items():
            writer.put(name, array)


def load_golden(path: Path) -> Golden:
    """The inverse of ``save_golden``."""
    file = SafetensorsFile(path)
    arrays = {name: file.array(name) for name in file.entries}
    ends = np.cumsum(arrays["lengths"])
    return Golden(
        names=tuple(json.loads(file.metadata["names"])),
        texts=int(file.metadata["texts"]),
        sequences=tuple(np.split(arrays["ids"], ends[:-1])),
        prompt_lengths=tuple(arrays["prompt_lengths"].tolist()),
        outputs=Outputs(*(arrays[name] for name in OUTPUTS)),
        crossed=_crossed(arrays),
    )


def _arrays_of(outputs: Outputs) -> dict[str, NDArray[Any]]:
    columns, best = outputs.columns.astype(np.int64), outputs.best.astype(np.int64)
    return dict(zip(OUTPUTS, (columns, outputs.values, outputs.norm, best), strict=True))


def _crossed(arrays: Mapping[str, NDArray[Any]]) -> Crossed | None:
    """None: bundles of older versions have none."""
    if "crossing_ids" not in arrays:
        return None
    kept = tuple(arrays["crossing_kept"].tolist())
    crossing = Crossing(arrays["crossing_ids"], kept, int(arrays["crossing_chunk"][0]))
    return Crossed(crossing, Outputs(*(arrays[f"crossing_{name}"] for name in OUTPUTS)))
