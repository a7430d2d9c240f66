"""Find the first place where an artifact leaves the reference: a debug build, tap by tap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from slmkit.backend.artifact import artifact_from_json, artifact_to_json
from slmkit.backend.declaration import LOWERING
from slmkit.backend.registry import find_backend
from slmkit.interpreters import reference
from slmkit.parity.golden import golden_prompts
from slmkit.parity.metrics import Number
from slmkit.planning.emit import STEPS, describe_job, emit_anew, read_artifact
from slmkit.planning.plan import Plan, Request, make_plan
from slmkit.quant.codes import CodesFile
from slmkit.snr import snr_db
from slmkit.system import subprocess_worker
from slmkit.system.cache import Cache, work_folder
from slmkit.system.progress import Progress
from slmkit.system.subprocess_worker import Report
from slmkit.workflows.codes import quantized


@dataclass(frozen=True)
class Tap:
    """One marked intermediate: how far the artifact is from the reference on the same codes."""

    name: str
    snr_db: Number
    good: bool  # above the recipe's bound of the lowering error


_ADAPTER = TypeAdapter(Tap)


def tap_to_json(tap: Tap) -> dict[str, Any]:
    """For ``--json``."""
    values: dict[str, Any] = _ADAPTER.dump_python(tap, mode="json")
    return values


def compare_layers(request: Request, progress: Progress) -> list[Tap]:
    """Taps in the order of the arithmetic, the logits last, for the first artifact asked for.

    The artifact is emitted anew with its taps as outputs and runs in its exact mode, over the
    first golden prompt at once; nothing is written but temporary files.
    """
    plan = make_plan(request)
    with work_folder(request.cache) as work:
        cache = Cache(request.cache or work / "cache")
        encoding = plan.choice.encoding(plan.choice.artifacts[0])
        codes = quantized(plan, [encoding], cache, progress).codes[encoding]
        folder = work / "artifact"
        folder.mkdir()
        return _compare(plan, codes, folder, progress)


def run_job(payload: dict[str, Any], report: Report) -> None:
    """In the worker: feed the ids, save the tapped values."""
    folder = Path(payload["folder"])
    artifact = artifact_from_json(payload["artifact"])
    runner = find_backend(artifact.name).open_runner(folder, artifact, artifact.modes[0].name)
    logits = runner.feed(np.asarray(payload["ids"]))
    arrays: Any = {**runner.taps, "logits": logits}
    np.savez(folder / "taps.npz", **arrays)


def _compare(plan: Plan, codes: CodesFile, folder: Path, progress: Progress) -> list[Tap]:
    checkpoint, choice = plan.checkpoint, plan.choice
    name = choice.artifacts[0]
    prompt = golden_prompts(
        checkpoint.tokenizer, checkpoint.spec, choice.context_length, choice.model.parameters
    )[0]
    progress.stage(f"emit {name} with taps", STEPS)
    job = describe_job(
        name,
        checkpoint,
        codes,
        choice.recipe,
        choice.context_length,
        plan.calibration,
        choice.target.name,
    )
    emit_anew(folder, replace(job, debug=True), progress)
    progress.stage(f"run {name}", 1)
    payload = {
        "artifact": artifact_to_json(read_artifact(folder)),
        "folder": str(folder),
        "ids": prompt.ids.tolist(),
    }
    about = f"runs the artifact {name}"
    subprocess_worker.call(
        "slmkit.workflows.layerwise:run_job", payload, lambda done, total: None, about
    )
    progress.stage("reference on codes", 1)
    expected = reference.taps(codes, checkpoint.spec.scaled(codes.stream_scale), prompt.ids)
    floor = choice.recipe.parity[LOWERING].snr_db or 0
    with np.load(folder / "taps.npz") as got:
        ratios = {tap: snr_db(expected[tap], got[tap]) for tap in expected}
    return [Tap(tap, ratio, ratio >= floor) for tap, ratio in ratios.items()]
