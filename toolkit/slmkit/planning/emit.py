"""One artifact from codes: the job that runs in a worker, and its cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slmkit import __version__
from slmkit.backend.interface import Artifact, artifact_from_json
from slmkit.backend.job import job_of, tokenizer_files
from slmkit.backend.registry import find_backend, versions_of
from slmkit.checkpoint.folder import Checkpoint
from slmkit.checkpoint.model_card import license_of
from slmkit.errors import SlmkitError
from slmkit.quant.codes import CodesFile
from slmkit.recipe.recipe import Recipe
from slmkit.system import subprocess_worker
from slmkit.system.cache import Cache, file_hash, key_of
from slmkit.system.progress import Progress

Payload = dict[str, Any]
FACTS = "artifact.json"  # beside the files in the cache


def payload_of(
    artifact: str,
    checkpoint: Checkpoint,
    codes: CodesFile,
    recipe: Recipe,
    context_length: int,
    calibration: Sequence[Sequence[int]],
    target: str = "",
) -> Payload:
    """The emit job of one artifact, without the folder that it writes to."""
    listens = find_backend(artifact).CALIBRATED  # the others need no new build for a new text
    return {
        "artifact": artifact,
        "target": target,
        "checkpoint": str(checkpoint.folder),
        "codes": str(codes.path),
        "options": recipe.options(artifact),
        "context_length": context_length,
        "prefill_chunk": recipe.prefill_chunk,
        "calibration": [list(text) for text in calibration] if listens else [],
        "about": {
            "model": checkpoint.name,
            "recipe": recipe.name,
            "license": license_of(checkpoint.folder),
            "slmkit": __version__,
        },
    }


def emit(
    payload: Payload,
    checkpoint: Checkpoint,
    codes: CodesFile,
    folder: Path,
    cache: Cache,
    progress: Progress,
) -> Artifact:
    """Write an artifact into ``folder``: out of the cache, or by its backend in a worker."""
    key = _key(payload, checkpoint, codes)
    progress.stage(f"emit {payload['artifact']}", 1000)
    payload = {**payload, "cache": str(cache.folder)}  # for what several artifacts share
    if cache.find("artifact", key) is None:
        with cache.making("artifact", key) as making:
            emit_anew(making, payload, progress)
    entry = cache.find("artifact", key)
    if entry is None:
        raise SlmkitError(f"the cache {cache.folder} lost an entry", "is its disk full?")
    shutil.copytree(entry, folder, dirs_exist_ok=True)
    artifact = read_facts(folder)
    (folder / FACTS).unlink()
    return artifact


def emit_anew(folder: Path, payload: Payload, progress: Progress) -> None:
    """Let a worker write the artifact and its facts into ``folder``; progress in thousandths."""
    done = 0

    def report(now: int, total: int) -> None:
        nonlocal done
        share = 1000 * now // max(1, total)
        progress.advance(share - done)
        done = share

    about = f"writes the artifact {payload['artifact']}"
    subprocess_worker.call("emit", {**payload, "folder": str(folder)}, report, about)


def read_facts(folder: Path) -> Artifact:
    """What the backend said of the artifact in ``folder``."""
    return artifact_from_json(json.loads((folder / FACTS).read_text(encoding="utf-8")))


def emit_job(payload: Payload, report: subprocess_worker.Report) -> None:
    """In the worker: interpret the architecture with the backend's ops, write the files."""
    job, folder = job_of(payload), Path(payload["folder"])
    artifact = find_backend(job.artifact).emit(job, folder, report)
    (folder / FACTS).write_text(json.dumps(asdict(artifact), indent=1), encoding="utf-8")


def _key(payload: Payload, checkpoint: Checkpoint, codes: CodesFile) -> str:
    """Codes, spec, options, tokenizer and versions: whatever the artifact's bytes depend on."""
    job = {key: payload[key] for key in payload if key not in ("checkpoint", "codes", "cache")}
    return key_of(
        {
            "job": job,
            "codes": codes.key,
            "spec": asdict(checkpoint.spec),
            "config": file_hash(checkpoint.folder / "config.json"),
            "tokenizer": [
                (path.name, file_hash(path)) for path in tokenizer_files(checkpoint.folder)
            ],
            "backend": find_backend(payload["artifact"]).VERSION,
            "versions": versions_of(payload["artifact"]),
        }
    )
