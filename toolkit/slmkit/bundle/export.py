"""Export: the files of one artifact that an app loads, and nothing else, with a small manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from slmkit.backend.artifact import SequenceState, Tensor
from slmkit.bundle.folder import Kind, written
from slmkit.bundle.manifest import (
    STRICT,
    BundledArtifact,
    File,
    Inside,
    Manifest,
    read_manifest,
)
from slmkit.bundle.roles import EVERY, shipped
from slmkit.bundle.verify import check_files
from slmkit.checkpoint.generation import Generation

EXPORT = "slmkit-export.json"
KIND = Kind("export", "an", EXPORT, "--to")


class Export(BaseModel):
    """The manifest of an export: the facts of one artifact that an app needs, and its files."""

    model_config = STRICT

    schema_version: int = 1
    slmkit: str  # version
    model: str
    target: str
    artifact: str
    format: str
    devices: tuple[str, ...]  # that have files of their own here; empty: the same for every one
    memory: int = Field(ge=0)  # bytes that an app needs at the whole context
    context_length: int
    stop_ids: tuple[int, ...]
    generation: Generation
    tokenizer: Inside | None  # folder; None: it lies in the model's files, or beside them
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    state: SequenceState
    facts: dict[str, Any]  # the contract's: docs/pages/contracts
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def export(
    bundle: Path,
    artifact: str | None,
    place: Path,
    devices: Sequence[str] = (),
    force: bool = False,
) -> Export:
    """Copy what an app loads of an artifact into the folder ``place``, and check every copy.

    Files of the artifact lie there as in its own folder, the tokenizer's in ``tokenizer/``.
    ``devices``: only for these, chips or GPUs. ``force``: replace an older export. Raises
    BundleError for a damaged bundle or a folder that is in the way, UsageError for an artifact or a
    device that there is none of.
    """
    manifest = read_manifest(bundle)
    chosen = manifest.artifact(artifact)
    files = shipped(manifest, chosen, devices)
    check_files(bundle, files)
    with written(place, force, KIND) as folder:
        copied = tuple(_copy(bundle, file, _place(file, chosen), folder) for file in files)
        check_files(folder, copied)
        found = _described(manifest, chosen, devices, copied)
        text = json.dumps(found.model_dump(mode="json"), indent=1, ensure_ascii=False)
        (folder / EXPORT).write_text(text + "\n", encoding="utf-8")
    return found


def _place(file: File, artifact: BundledArtifact) -> str:
    return file.path.removeprefix(f"{artifact.folder}/")


def _copy(bundle: Path, file: File, place: str, folder: Path) -> File:
    target = folder / place
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(bundle / file.path, target)
    return file.model_copy(update={"path": place, "role": None})


def _described(
    manifest: Manifest, artifact: BundledArtifact, devices: Sequence[str], files: tuple[File, ...]
) -> Export:
    chosen = devices or artifact.ships
    named = tuple(each for each in artifact.ships if each != EVERY and each in chosen)
    return Export(
        slmkit=manifest.slmkit,
        model=manifest.model.name,
        target=manifest.target,
        artifact=artifact.name,
        format=artifact.format,
        devices=named,
        memory=artifact.memory.total,
        context_length=manifest.context_length,
        stop_ids=manifest.stop_ids,
        generation=manifest.generation,
        tokenizer=manifest.tokenizer if artifact.app_tokenizer else None,
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        state=artifact.state,
        facts=artifact.facts,
        files=files,
    )
