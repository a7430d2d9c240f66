"""Emits litert artifacts of models for tests, and runs them beside the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hexagon_artifacts import ALL_SCHEMES, CHUNK, CONTEXT, STEPS, ids_for, recipe_of, reference_of

from slmkit.backend.interface import Artifact, Job
from slmkit.backend.job import job_of
from slmkit.backend.registry import find_backend
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.interpreters.reference import Rounded, logits
from slmkit.planning.emit import payload_of
from slmkit.planning.memory import matrix_schemes
from slmkit.planning.plan import codes_of
from slmkit.system.cache import Cache
from slmkit.system.progress import Silent

FLOOR = 100  # dB, on every token: the float32 graph's
LOOSE = 15  # dB, on every token: activations rounded to 8 bits inside the kernels
KERNELS = 80  # dB, on the median token: the reference rounds activations to 8 bits as kernels do
SCHEMES: dict[str, dict[str, Any]] = {
    **{name: ALL_SCHEMES[name] for name in ("int4-g32", "int4-free-g32", "int4-per-channel")},
    **{name: ALL_SCHEMES[name] for name in ("int8-per-channel", "float16")},
    "int4-g64": {"encoding": "group-wise", "bits": 4, "group_size": 64},
}


def litert_job(folder: Path, scratch: Path, scheme: str = "", **more: Any) -> Job:
    """An emit job of the recipe int4, or of one scheme for every weight."""
    recipe = recipe_of(SCHEMES[scheme] if scheme else None)
    checkpoint = open_checkpoint(folder)
    schemes = matrix_schemes(checkpoint.spec, recipe)
    codes = codes_of(checkpoint, schemes, Cache(scratch / "c"), Silent())
    payload = payload_of("litert", checkpoint, codes, recipe, CONTEXT, [])
    skeletons = scratch.parent / "skeletons"  # traced once by each process of the test run
    return job_of({**payload, "prefill_chunk": CHUNK, "cache": str(skeletons), **more})


def emitted(job: Job, folder: Path) -> Artifact:
    """Write the artifact into a new folder."""
    folder.mkdir(parents=True)
    return find_backend("litert").emit(job, folder, lambda done, total: None)


def run(folder: Path, artifact: Artifact, mode: str, job: Job) -> np.ndarray:
    """Logits of every token: chunks, then one by one."""
    runner = find_backend("litert").open_runner(folder, artifact, mode)
    return np.concatenate([runner.feed(chunk) for chunk in np.split(ids_for(job), STEPS)])


def token_snr_db(expected: np.ndarray, got: np.ndarray) -> np.ndarray:
    """Signal to noise of each token's logits."""
    noise = np.square(expected - got, dtype=np.float64).sum(axis=1)
    signal = np.square(expected, dtype=np.float64).sum(axis=1)
    return 10 * np.log10(signal / np.maximum(noise, 1e-300))


def check_floors(job: Job, folder: Path) -> None:
    """On every token, and every operation delegated."""
    artifact, expected = emitted(job, folder), reference_of(job)
    assert token_snr_db(expected, run(folder, artifact, "float32", job)).min() > FLOOR
    shipped = run(folder, artifact, "shipped", job)
    amplified = job.spec.mixture or "scan" in job.model.ops  # what rounding to 8 bits does
    if not amplified:
        assert token_snr_db(expected, shipped).min() > LOOSE
    alike = logits(job.codes, job.spec, [ids_for(job)], kind=Rounded)[0]
    assert np.median(token_snr_db(alike, shipped)) > KERNELS
    assert bool(artifact.facts["bundles"]) != bool(job.model.states)  # LiteRT-LM keeps none
    for each in artifact.facts["delegation"].values():
        assert each["share"] == 1
        assert each["partitions"] >= 1
