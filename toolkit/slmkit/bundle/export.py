"""Export: the files of one artifact that an app loads, and nothing else, with a small manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from slmkit.backend.artifact import SequenceState, Tensor
from slmkit.bundle.delivery import (
    AI_PACK,
    LINKED,
    PLAIN,
    Delivery,
    Folder,
    check_form,
    plan_delivery,
)
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
    form: str = PLAIN  # of delivery
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
    form: str = PLAIN,
) -> Export:
    """Copy what an app loads of an artifact into the folder ``place``, and check every copy.

    Files of the artifact lie there as in its own folder, the tokenizer's in ``tokenizer/``; in the
    delivery forms of stores (``delivery.FORMS``) so in each folder of the model. ``devices``: only
    for these, chips or GPUs. ``force``: replace an older export. Raises BundleError for a damaged
    bundle or a folder that is in the way, UsageError for an artifact, device or form that there is
    none of, RefusedError beyond a store's limits.
    """
    manifest = read_manifest(bundle)
    manifest.refuse_failed()
    check_form(form, manifest)
    chosen = manifest.artifact(artifact)
    files = shipped(manifest, chosen, devices)
    plan = _plan(form, manifest, chosen, devices, files)
    check_files(bundle, files)
    with written(place, force, KIND) as folder:
        copied = [_fill(bundle, manifest, chosen, each, folder) for each in plan.folders]
        copied.append(tuple(_copy(bundle, file, chosen, folder, LINKED) for file in plan.linked))
        for name, text in (plan.texts or {}).items():
            (folder / name).write_text(text, encoding="utf-8")
        found = _described(
            manifest, chosen, devices, tuple(file for each in copied for file in each)
        )
        found = found.model_copy(update={"form": form})
        check_files(folder, found.files)
        _write(found, folder)
    return found


def _plan(
    form: str,
    manifest: Manifest,
    artifact: BundledArtifact,
    devices: Sequence[str],
    files: tuple[File, ...],
) -> Delivery:
    """Where the files go: one folder, or those of a store's form; a chip has its own where the
    store can tell it from others."""
    if form == PLAIN:
        return Delivery((Folder("", tuple(devices), files),))
    chips = [each for each in devices or artifact.ships if each in artifact.soc_models]
    told_apart = chips if form == AI_PACK else []
    by_device = {each: shipped(manifest, artifact, [each]) for each in told_apart}
    return plan_delivery(form, manifest, artifact, by_device or {EVERY: files})


def _fill(
    bundle: Path, manifest: Manifest, artifact: BundledArtifact, part: Folder, folder: Path
) -> tuple[File, ...]:
    """Copy the files of one folder, with a small manifest of their own where it is not the whole
    export; their paths in the export."""
    copied = tuple(_copy(bundle, file, artifact, folder, part.path) for file in part.files)
    if part.path:
        inner = [
            file.model_copy(update={"path": file.path.removeprefix(f"{part.path}/")})
            for file in copied
        ]
        _write(_described(manifest, artifact, part.devices, tuple(inner)), folder / part.path)
    return copied


def _copy(bundle: Path, file: File, artifact: BundledArtifact, folder: Path, inside: str) -> File:
    """Copy a file of the bundle into ``inside`` of the folder; the copy, by its path there."""
    name = file.path.removeprefix(f"{artifact.folder}/")
    path = f"{inside}/{name}" if inside else name
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(bundle / file.path, target)
    return file.model_copy(update={"path": path, "role": None})


def _write(found: Export, folder: Path) -> None:
    text = json.dumps(found.model_dump(mode="json"), indent=1, ensure_ascii=False)
    (folder / EXPORT).write_text(text + "\n", encoding="utf-8")


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
