"""Find the first place where an artifact leaves the reference: a debug build, tap by tap."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.backend.interface import artifact_from_json
from slmkit.backend.registry import find_backend
from slmkit.interpreters import reference
from slmkit.parity.golden import golden_prompts
from slmkit.parity.metrics import signal_to_noise
from slmkit.planning.emit import emit_anew, payload_of, read_facts
from slmkit.planning.plan import Plan, Request, codes_of, make_plan
from slmkit.quant.codes import CodesFile
from slmkit.system import subprocess_worker
from slmkit.system.cache import Cache
from slmkit.system.progress import Progress
from slmkit.system.subprocess_worker import Report


@dataclass(frozen=True)
class Tap:
    """One marked intermediate: how far the artifact is from the reference on the same codes."""

    name: str
    snr_db: float
    good: bool  # above the recipe's bound of the lowering error


def trace(request: Request, progress: Progress) -> list[Tap]:
    """Taps in the order of the arithmetic, the logits last, for the first artifact asked for.

    The artifact is emitted anew with its taps as outputs and runs in its exact mode, over the
    first golden prompt at once; nothing is written but temporary files.
    """
    plan = make_plan(request)
    with tempfile.TemporaryDirectory(prefix="slmkit-") as scratch:
        cache = Cache(request.cache or Path(scratch) / "cache")
        schemes = plan.encoding(plan.artifacts[0]).schemes
        codes = codes_of(plan.checkpoint, schemes, cache, progress)
        folder = Path(scratch) / "artifact"
        folder.mkdir()
        return _compare(plan, codes, folder, progress)


def trace_job(payload: dict[str, Any], report: Report) -> None:
    """In the worker: feed the ids, save what was tapped."""
    folder = Path(payload["folder"])
    artifact = artifact_from_json(payload["artifact"])
    runner = find_backend(artifact.name).open_runner(folder, artifact, artifact.modes[0].name)
    logits = runner.feed(np.asarray(payload["ids"]))
    arrays: Any = {**runner.taps, "logits": logits}
    np.savez(folder / "taps.npz", **arrays)


def _compare(plan: Plan, codes: CodesFile, folder: Path, progress: Progress) -> list[Tap]:
    checkpoint, name = plan.checkpoint, plan.artifacts[0]
    prompt = golden_prompts(
        checkpoint.tokenizer, checkpoint.spec, plan.context_length, plan.parameters
    )[0]
    progress.stage(f"emit {name} with taps", 1000)
    payload = payload_of(
        name,
        checkpoint,
        codes,
        plan.recipe,
        plan.context_length,
        plan.calibration,
        plan.platform.name,
    )
    emit_anew(folder, {**payload, "debug": True}, progress)
    progress.stage(f"run {name}", 1)
    job = {
        "artifact": asdict(read_facts(folder)),
        "folder": str(folder),
        "ids": prompt.ids.tolist(),
    }
    subprocess_worker.call("trace", job, lambda done, total: None, f"runs the artifact {name}")
    progress.stage("reference on codes", 1)
    expected = reference.taps(codes, checkpoint.spec, prompt.ids)
    floor = plan.recipe.parity.lowering.snr_db or 0
    with np.load(folder / "taps.npz") as got:
        ratios = {tap: signal_to_noise(expected[tap], got[tap]) for tap in expected}
    return [Tap(tap, ratio, ratio >= floor) for tap, ratio in ratios.items()]
