"""Programs and artifacts of models for tests of mlc, run beside the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hexagon_artifacts import ALL_SCHEMES, CHUNK, CONTEXT, STEPS, ids_for, recipe_of

from slmkit.backend.interface import Artifact, Job
from slmkit.backend.job import job_of
from slmkit.backend.registry import find_backend
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.planning.emit import payload_of
from slmkit.planning.memory import matrix_schemes
from slmkit.planning.plan import codes_of
from slmkit.recipe.recipe import Recipe
from slmkit.system.cache import Cache
from slmkit.system.progress import Silent
from slmkit_mlc.contract import FUNCTIONS
from slmkit_mlc.lowering.definition import Definition, definition_for
from slmkit_mlc.verify.machine import Machine, on_processor
from slmkit_mlc.writer import write_params

SCHEMES: dict[str, dict[str, Any]] = {
    **{name: each for name, each in ALL_SCHEMES.items() if not name.startswith("lut")},
    "int4-uneven": {"encoding": "group-wise", "bits": 4, "group_size": 32, "symmetric": False},
    "int8-g64": {"encoding": "group-wise", "bits": 8, "group_size": 64},
}


def mlc_job(
    folder: Path, scratch: Path, scheme: str | dict[str, str] = "", target: str = "android",
    **more: Any,
) -> Job:  # fmt: skip
    """An emit job of the recipe int4, or of one scheme for every weight, or of schemes by place
    in ``model.layers.``."""
    recipe = recipe_of(SCHEMES[scheme] if isinstance(scheme, str) and scheme else None)
    if isinstance(scheme, dict):
        rules = [
            {"match": [f"model.layers.{place}"], "scheme": SCHEMES[name]}
            for place, name in scheme.items()
        ]
        values = recipe.model_dump()
        recipe = Recipe.model_validate({**values, "weights": [*values["weights"], *rules]})
    checkpoint = open_checkpoint(folder)
    schemes = matrix_schemes(checkpoint.spec, recipe)
    codes = codes_of(checkpoint, schemes, Cache(scratch / "c"), Silent())
    payload = payload_of("mlc", checkpoint, codes, recipe, CONTEXT, [], target)
    return job_of({**payload, "prefill_chunk": CHUNK, **more})


def emitted(job: Job, folder: Path) -> Artifact:
    """Write the artifact into a new folder."""
    folder.mkdir(parents=True)
    return find_backend("mlc").emit(job, folder, lambda done, total: None)


def machine_of(
    job: Job, scratch: Path, dtype: str = "float32", functions: tuple[str, ...] = FUNCTIONS
) -> tuple[Machine, Definition]:
    """The program on this processor with the job's parameters; no library is compiled."""
    definition = definition_for(job)
    write_params(definition, job, scratch / "params")
    executable, _ = on_processor(definition, dtype, functions)
    return Machine(executable, definition, scratch / "params"), definition


def run(machine: Machine, job: Job, steps: list[int] | None = None) -> np.ndarray:
    """Logits of every token: chunks as long as the program takes, then one by one."""
    most, found = machine.definition.limits.prefill, []
    for chunk in np.split(ids_for(job), steps or STEPS):
        for at in range(0, len(chunk), most):
            part = chunk[at : at + most]
            name = "decode" if len(part) == 1 else "batch_verify"
            found.append(machine.call(name, part)[0][0])
    return np.concatenate(found)


def compile_and_crash(payload: dict[str, Any], report: Any) -> None:
    """In a worker: compile with a matmul rule that reads where nothing is."""
    import ctypes

    from tvm.s_tir import dlight

    from slmkit_mlc.compiler.compile import compile_job

    def crash(*given: Any) -> None:
        ctypes.string_at(1)

    dlight.gpu.Matmul.apply = crash
    compile_job(payload, report)
