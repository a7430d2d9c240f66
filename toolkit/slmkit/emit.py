"""One artifact from codes: the job that runs in a worker, and its cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slmkit import worker
from slmkit.cache import Cache, file_hash, key_of
from slmkit.checkpoint.folder import Checkpoint, open_checkpoint
from slmkit.checkpoint.tokenizer import FILES, Tokenizer
from slmkit.models import registry
from slmkit.ops import Ops, V
from slmkit.progress import Progress
from slmkit.quant.codes import CodesFile
from slmkit.target import Artifact, Job, TokenFacts, artifact_from_json, find_backend, versions_of

FACTS = "artifact.json"  # beside the files in the cache


def emit(
    artifact: str,
    checkpoint: Checkpoint,
    codes: CodesFile,
    options: Mapping[str, Any],
    context_length: int,
    prefill_chunk: int,
    folder: Path,
    cache: Cache,
    progress: Progress,
) -> Artifact:
    """Write an artifact into ``folder``: out of the cache, or by its backend in a worker."""
    payload = {
        "artifact": artifact,
        "checkpoint": str(checkpoint.folder),
        "codes": str(codes.path),
        "options": dict(options),
        "context_length": context_length,
        "prefill_chunk": prefill_chunk,
    }
    key = _key(payload, checkpoint, codes)
    progress.stage(f"emit {artifact}", 1000)
    if cache.find("artifact", key) is None:
        with cache.making("artifact", key) as making:
            _emit_into(making, payload, artifact, progress)
    entry = cache.find("artifact", key)
    if entry is None:  # the cache is not writable beyond this build
        _emit_into(folder, payload, artifact, progress)
        entry = folder
    else:
        shutil.copytree(entry, folder, dirs_exist_ok=True)
    facts = artifact_from_json(_read(folder / FACTS))
    (folder / FACTS).unlink()
    return facts


def emit_job(payload: dict[str, Any], report: worker.Report) -> None:
    """In the worker: interpret the architecture with the backend's ops, write the files."""
    checkpoint = open_checkpoint(Path(payload["checkpoint"]))
    spec = checkpoint.spec

    def forward(o: Ops[V]) -> V:
        return registry.run(o, spec)

    job = Job(
        artifact=payload["artifact"],
        spec=spec,
        forward=forward,
        codes=CodesFile(Path(payload["codes"])),
        options=payload["options"],
        context_length=payload["context_length"],
        prefill_chunk=payload["prefill_chunk"],
        tokens=token_facts(checkpoint.tokenizer, checkpoint.folder),
    )
    folder = Path(payload["folder"])
    artifact = find_backend(job.artifact).emit(job, folder, report)
    _write(folder / FACTS, asdict(artifact))


def token_facts(tokenizer: Tokenizer, folder: Path) -> TokenFacts:
    """What an artifact's runtime must know of the tokenizer."""
    return TokenFacts(
        bos=tokenizer.token_id("bos_token"),
        stop=tokenizer.stop_ids,
        pad=tokenizer.token_id("pad_token"),
        files=tuple(tokenizer_files(folder)),
        chat_template=tokenizer.template,
    )


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer's files of a checkpoint that exist."""
    return [folder / name for name in FILES if (folder / name).is_file()]


def _key(payload: dict[str, Any], checkpoint: Checkpoint, codes: CodesFile) -> str:
    """Codes, spec, options, tokenizer and versions: whatever the artifact's bytes depend on."""
    return key_of(
        {
            **{key: payload[key] for key in ("artifact", "options", "context_length")},
            "prefill_chunk": payload["prefill_chunk"],
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


def _emit_into(folder: Path, payload: dict[str, Any], artifact: str, progress: Progress) -> None:
    done = 0

    def report(now: int, total: int) -> None:
        nonlocal done
        share = 1000 * now // max(1, total)
        progress.advance(share - done)
        done = share

    job = {**payload, "folder": str(folder)}
    worker.call("emit", job, report, f"writes the artifact {artifact}")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
