"""Emit one artifact from codes: in a worker process, or out of the cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from slmkit import __version__
from slmkit.backend.artifact import Artifact, artifact_from_json, artifact_to_json
from slmkit.backend.job import JobDescription, job_from_json, tokenizer_files
from slmkit.backend.registry import find_backend, versions_of
from slmkit.checkpoint.folder import Checkpoint
from slmkit.checkpoint.model_card import license_of
from slmkit.checkpoint.named_templates import additional_templates
from slmkit.quant.codes import CodesFile
from slmkit.recipe.recipe import Recipe
from slmkit.system import subprocess_worker
from slmkit.system.cache import Cache, file_hash, key_of
from slmkit.system.progress import Progress

FACTS = "artifact.json"  # beside the files in the cache
STEPS = 1000  # of an emission, in a progress display


def describe_job(
    artifact: str,
    checkpoint: Checkpoint,
    codes: CodesFile,
    recipe: Recipe,
    context_length: int,
    calibration: Sequence[Sequence[int]],
    target: str = "",
    chat_template: str | None = None,
) -> JobDescription:
    """The emit job of one artifact, without the folder that it writes to."""
    options = recipe.options(artifact)
    # The others need no new build for a new text.
    calibrated = find_backend(artifact).reads_calibration(options)
    return JobDescription(
        artifact=artifact,
        target=target,
        chat_template=chat_template,
        checkpoint=checkpoint.folder,
        adapters=checkpoint.adapters,
        codes=codes.path,
        options=options,
        context_length=context_length,
        prefill_chunk=recipe.prefill_chunk,
        calibration=tuple(map(tuple, calibration)) if calibrated else (),
        about={
            "model": checkpoint.name,
            "recipe": recipe.name,
            "license": license_of(checkpoint.folder),
            "slmkit": __version__,
        },
    )


def emit(
    job: JobDescription,
    checkpoint: Checkpoint,
    codes: CodesFile,
    folder: Path,
    cache: Cache,
    progress: Progress,
) -> Artifact:
    """Write an artifact into ``folder``: out of the cache, or by its backend in a worker."""
    key = _key(job, checkpoint, codes)
    progress.stage(f"emit {job.artifact}", STEPS)
    if not cache.copy("artifact", key, folder):
        with cache.making("artifact", key) as making:
            emit_anew(making, replace(job, cache=cache.folder), progress)
        cache.entry("artifact", key)
        cache.copy("artifact", key, folder)
    artifact = read_artifact(folder)
    (folder / FACTS).unlink()
    return artifact


def emit_anew(folder: Path, job: JobDescription, progress: Progress) -> None:
    """Let a worker write the artifact and its facts into ``folder``."""
    done = 0

    def report(now: int, total: int) -> None:
        nonlocal done
        share = STEPS * now // max(1, total)
        progress.advance(share - done)
        done = share

    about = f"writes the artifact {job.artifact}"
    payload = {"job": job.as_json(), "folder": str(folder)}
    subprocess_worker.call("slmkit.planning.emit:emit_job", payload, report, about)


def read_artifact(folder: Path) -> Artifact:
    """The artifact in ``folder``, as its backend described it."""
    return artifact_from_json(json.loads((folder / FACTS).read_text(encoding="utf-8")))


def emit_job(payload: dict[str, Any], report: subprocess_worker.Report) -> None:
    """In the worker: interpret the architecture with the backend's ops, write the files."""
    job, folder = job_from_json(payload["job"]).open(), Path(payload["folder"])
    artifact = find_backend(job.artifact).emit(job, folder, report)
    text = json.dumps(artifact_to_json(artifact), indent=1)
    (folder / FACTS).write_text(text, encoding="utf-8")


def _key(job: JobDescription, checkpoint: Checkpoint, codes: CodesFile) -> str:
    """Hash of everything that the artifact's bytes depend on."""
    return key_of(
        {
            "job": job.facts(),
            "codes": codes.key,
            "spec": asdict(checkpoint.spec),
            "config": file_hash(checkpoint.folder / "config.json"),
            "tokenizer": [
                (path.name, file_hash(path))
                for path in (
                    *tokenizer_files(checkpoint.folder),
                    *additional_templates(checkpoint.folder),
                )
            ],
            "backend": find_backend(job.artifact).VERSION,
            "versions": versions_of(job.artifact),
        }
    )
