"""Emits coreml artifacts of models for tests, and runs them in the evaluator."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from hexagon_artifacts import (
    ALL_SCHEMES,
    STEPS,
    floor_db,
    ids_for,
    job_of,
    recipe_of,
    reference_of,
    snr_db,
)  # fmt: skip

from slmkit.backend.interface import Artifact, Job
from slmkit.backend.registry import find_backend

FLOAT32_FLOOR = 100  # dB: ARCHITECTURE's floor; every constant is exact in float16
FLOAT16_FLOOR = 45  # dB: each of some hundred operations rounds to 11 bits
# dB: the recipes' own bound. What a scan gives is a product of four values that all stem from its
# input, each rounded: tiny models give 41, and no single operation is to blame.
SCAN_FLOOR = 40


def coreml_job(folder: Path, scratch: Path, scheme: str = "int4-g32", **options: Any) -> Job:
    """An emit job of one scheme for every weight."""
    job = job_of(folder, scratch, recipe_of(ALL_SCHEMES[scheme]))
    return dataclasses.replace(job, artifact="coreml", options=options)


def emitted(job: Job, folder: Path) -> Artifact:
    """Write the artifact into a new folder."""
    folder.mkdir(parents=True)
    return find_backend("coreml").emit(job, folder, lambda done, total: None)


def run(folder: Path, artifact: Artifact, job: Job, precision: str) -> np.ndarray:
    """Logits of every token: chunks, then one by one."""
    runner = find_backend("coreml").open_runner(folder, artifact, precision)
    return np.concatenate([runner.feed(chunk) for chunk in np.split(ids_for(job), STEPS)])


def check_floors(job: Job, folder: Path) -> None:
    """The graph's arithmetic, and the device's as the evaluator estimates it."""
    artifact, expected = emitted(job, folder), reference_of(job)
    assert snr_db(expected, run(folder, artifact, job, "float32")) > FLOAT32_FLOOR
    floor = SCAN_FLOOR if "scan" in job.model.ops else FLOAT16_FLOOR
    assert floor_db(job, expected, run(folder, artifact, job, "float16")) > floor
