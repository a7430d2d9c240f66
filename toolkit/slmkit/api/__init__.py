"""The public Python API: what the commands do, as functions and small objects.

Paths may be strings. Everything raises ``SlmkitError`` or one of its classes, whose ``exit_code``
is that of the command line. The command line calls exactly these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slmkit.api.bundle import Bundle, PathLike, comparison_page
from slmkit.app.check import AppReport, check_app
from slmkit.app.project import Project, new_app
from slmkit.backend import registry
from slmkit.backend.targets import Target
from slmkit.bundle.adapter import BesideAdapter
from slmkit.bundle.export import Export
from slmkit.checkpoint.folder import SAMPLE_MODEL
from slmkit.devices.report import DeviceReport
from slmkit.errors import (
    AppError,
    BackendError,
    BundleError,
    CheckpointError,
    MissingPackageError,
    ParityError,
    RecipeError,
    RefusedError,
    SlmkitError,
    UsageError,
)
from slmkit.harness.run import TaskReport, TaskRequest, TaskScore
from slmkit.inference import load as loading
from slmkit.inference.evaluate import Score
from slmkit.inference.session import Session
from slmkit.parity.metrics import Comparison
from slmkit.planning.plan import Request
from slmkit.recipe.recipe import Recipe
from slmkit.system.cache import CacheChoice, chosen_folder
from slmkit.system.jobs import Limits
from slmkit.system.progress import Progress, Silent
from slmkit.workflows import build as building
from slmkit.workflows import estimate as estimating
from slmkit.workflows import inspect as inspecting
from slmkit.workflows import layerwise
from slmkit.workflows.adapter import add_adapter
from slmkit.workflows.bench import benchmark, prove_on
from slmkit.workflows.compare import Compared, Measured, compare
from slmkit.workflows.estimate import Estimate
from slmkit.workflows.evaluate import AnswerScore, TextScore, evaluate_answers, evaluate_text
from slmkit.workflows.gguf import GgufExport
from slmkit.workflows.inspect import Inspection
from slmkit.workflows.layerwise import Tap
from slmkit.workflows.recheck import Rechecked
from slmkit.workflows.sensitivity import Sensitivity, sensitivity
from slmkit.workflows.tasks import evaluate_tasks

__all__ = [
    "AnswerScore",
    "AppError",
    "AppReport",
    "BackendError",
    "BesideAdapter",
    "Bundle",
    "BundleError",
    "CheckpointError",
    "Compared",
    "Comparison",
    "DeviceReport",
    "Estimate",
    "Export",
    "GgufExport",
    "Inspection",
    "Limits",
    "Measured",
    "MissingPackageError",
    "ParityError",
    "Progress",
    "Project",
    "Rechecked",
    "Recipe",
    "RecipeError",
    "RefusedError",
    "Score",
    "Sensitivity",
    "Session",
    "SlmkitError",
    "Tap",
    "TaskReport",
    "TaskRequest",
    "TaskScore",
    "TextScore",
    "UsageError",
    "add_adapter",
    "benchmark",
    "build",
    "check_app",
    "compare",
    "compare_layers",
    "comparison_page",
    "estimate",
    "evaluate_answers",
    "evaluate_tasks",
    "evaluate_text",
    "inspect",
    "load",
    "new_app",
    "prove_on",
    "sensitivity",
    "targets",
]

Options = Mapping[str, Mapping[str, Any]]  # by artifact


def build(
    model: PathLike = SAMPLE_MODEL,
    *,
    target: str,
    recipe: str | Recipe = "int4",
    out: PathLike = "dist",
    context: int | None = None,
    memory_limit: int | None = None,
    artifacts: Sequence[str] = (),
    options: Options | None = None,
    calibration: PathLike | None = None,
    chat_template: str | None = None,
    adapters: Sequence[PathLike] = (),
    requantize: bool = False,
    force: bool = False,
    keep_failed: bool = False,
    limits: Limits | None = None,
    cache: CacheChoice = True,
    progress: Progress | None = None,
) -> Bundle:
    """Quantize a checkpoint, write every artifact of a target, prove each one.

    ``recipe``: a shipped recipe's name, a YAML file, or a ``Recipe``. ``context``: in tokens.
    ``memory_limit``: bytes that an app may use. ``artifacts``: only these. ``options``: of the
    recipe's ``artifacts``, by artifact. ``calibration``: text, or JSONL of messages.
    ``chat_template``: the name of one of the checkpoint's several. ``adapters``: folders of LoRA
    adapters of PEFT, merged in this order. ``requantize``: codes that the checkpoint brings are
    not taken, but made anew by the recipe. ``force``: replace an older bundle. ``keep_failed``:
    keep a bundle that breaks a bound under another name, NAME.failed. ``limits``: how many jobs
    run side by side on this computer, and in how much memory.

    Raises CheckpointError, RecipeError, UsageError for what cannot be read or does not exist,
    MissingPackageError, RefusedError for a model that an artifact cannot carry or that does not
    fit, ParityError if an artifact breaks a bound: then no bundle is written.
    """
    request = Request(
        Path(model),
        target,
        recipe,
        context=context,
        memory_limit=memory_limit,
        artifacts=tuple(artifacts),
        options=options or {},
        out=Path(out),
        calibration=None if calibration is None else Path(calibration),
        chat_template=chat_template,
        adapters=tuple(map(Path, adapters)),
        requantize=requantize,
        force=force,
        keep_failed=keep_failed,
        limits=limits or Limits(),
        cache=chosen_folder(cache),
    )
    return Bundle(building.build(request, progress or Silent()).folder)


def estimate(
    model: PathLike = SAMPLE_MODEL,
    *,
    target: str,
    recipe: str | Recipe = "int4",
    context: int | None = None,
    memory_limit: int | None = None,
    artifacts: Sequence[str] = (),
    options: Options | None = None,
    adapters: Sequence[PathLike] = (),
    requantize: bool = False,
    phones: Sequence[str] | None = None,
) -> Estimate:
    """Files, memory and refusals of a build, from config.json (a folder's, or the file) alone.

    ``phones``: those to forecast speed on (``Estimate.forecast``), by name, or ("all",); by default
    a short list. Sizes are in bytes. ``Estimate.check()`` raises RefusedError if the build would be
    refused. Others as of ``build``.
    """
    return estimating.estimate(
        Request(
            Path(model),
            target,
            recipe,
            context=context,
            memory_limit=memory_limit,
            artifacts=tuple(artifacts),
            options=options or {},
            adapters=tuple(map(Path, adapters)),
            requantize=requantize,
        ),
        None if phones is None else tuple(phones),
    )


def compare_layers(
    model: PathLike = SAMPLE_MODEL,
    *,
    target: str,
    recipe: str | Recipe = "int4",
    context: int | None = None,
    artifact: str | None = None,
    adapters: Sequence[PathLike] = (),
    cache: CacheChoice = True,
    progress: Progress | None = None,
) -> list[Tap]:
    """Compare an artifact with the reference layer by layer: SNR in dB after each part.

    ``artifact``: the target's first, if none is named. Other arguments and errors as those of
    ``build``; nothing is written but temporary files.
    """
    artifacts = () if artifact is None else (artifact,)
    request = Request(
        Path(model),
        target,
        recipe,
        context=context,
        artifacts=artifacts,
        adapters=tuple(map(Path, adapters)),
        cache=chosen_folder(cache),
    )
    return layerwise.compare_layers(request, progress or Silent())


def inspect(model: PathLike, adapters: Sequence[PathLike] = ()) -> Inspection:
    """A checkpoint's architecture, sizes, and memory by recipe and context length, in bytes.

    Only headers are read, and all of ``adapters``. Raises CheckpointError.
    """
    return inspecting.inspect(Path(model), tuple(map(Path, adapters)))


def load(path: PathLike, artifact: str | None = None, mode: str | None = None) -> Session:
    """A bundle's artifact in its runtime, or, slowly, a checkpoint's NumPy reference.

    Raises BundleError, CheckpointError, UsageError, MissingPackageError.
    """
    return loading.load(Path(path), artifact, mode)


def targets() -> dict[str, tuple[Target, tuple[str, ...]]]:
    """All targets by name, each with the artifacts that are built for it."""
    found = registry.targets()
    return {name: (target, registry.artifacts_of(target)) for name, target in found.items()}
