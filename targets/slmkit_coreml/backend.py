"""The ``coreml`` backend as slmkit finds it: what it cannot do, how it writes, how it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slmkit.quant.codes import Scheme, padded_width
from slmkit.target import Artifact, Job, Model, Runner, one_of, option_problems
from slmkit_coreml.contract import CACHES

VERSION = 1
KV_BYTES = 2  # float16
CALIBRATED = False
OPTIONS = {"require": one_of("ane"), "kv_cache": one_of(*CACHES)}
OPS = frozenset({
    "embed", "linear", "rms_norm", "split_heads", "rope", "attend", "add", "mul", "sigmoid", "silu",
})  # fmt: skip


def problems(model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any]) -> list[str]:
    """Everything that this backend cannot do for the model and recipe, one sentence each."""
    from slmkit_coreml.weights import refused

    found = option_problems("coreml", options, OPTIONS)
    found += [f"coreml has no form of the op {op}" for op in sorted(set(model.ops) - OPS)]
    return found + [
        f"coreml cannot take {name} in {schemes[name]}: {why}"
        for name in schemes
        if (why := refused(schemes[name], model.shapes[name][1], name in model.multiplied))
    ]


def weight_bytes(rows: int, width: int, scheme: Scheme) -> int:
    """Memory of one weight: codes and float16 scales."""
    if scheme.bits is None:
        return rows * width * 2
    padded = padded_width(scheme, width)
    return rows * (padded * scheme.bits // 8 + 2 * (padded // (scheme.group_size or padded)))


def emit(job: Job, folder: Path, progress: Callable[[int, int], None]) -> Artifact:
    """Write the artifact's files into an empty folder."""
    from slmkit_coreml.write import write

    return write(job, folder, f"slmkit_coreml {VERSION}", progress)


def open_runner(folder: Path, artifact: Artifact, mode: str) -> Runner:
    """Load a written artifact: ``float32`` or ``float16``."""
    from slmkit_coreml.run import CoremlRunner

    return CoremlRunner(folder, artifact, mode)
