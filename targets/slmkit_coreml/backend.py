"""The ``coreml`` backend as slmkit finds it: what it cannot do, how it writes, how it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slmkit.quant.codes import Scheme
from slmkit.target import Artifact, Job, Model, Runner
from slmkit_coreml import options as recipe_options
from slmkit_coreml.sizes import matrix_bytes

VERSION = 2
KV_BYTES = 2  # float16
CALIBRATED = False


def problems(model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any]) -> list[str]:
    """Everything that this backend cannot do for the model and recipe, one sentence each."""
    return recipe_options.problems(model, schemes, options)


def weight_bytes(rows: int, width: int, scheme: Scheme) -> int:
    """Memory of one weight: codes with float16 scales or palettes."""
    return matrix_bytes(rows, width, scheme)


def emit(job: Job, folder: Path, progress: Callable[[int, int], None]) -> Artifact:
    """Write the artifact's files into an empty folder."""
    from slmkit_coreml.write import write

    return write(job, folder, f"slmkit_coreml {VERSION}", progress)


def open_runner(folder: Path, artifact: Artifact, mode: str) -> Runner:
    """Load a written artifact: ``float32`` or ``float16``."""
    from slmkit_coreml.run import CoremlRunner

    return CoremlRunner(folder, artifact, mode)
