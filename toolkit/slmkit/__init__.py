"""slmkit takes a small language model from a Hugging Face checkpoint to phones, and proves it."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slmkit.api import (
        AnswerScore,
        AppError,
        AppReport,
        BackendError,
        BesideAdapter,
        Bundle,
        BundleError,
        CheckpointError,
        Compared,
        Comparison,
        DeviceReport,
        Estimate,
        Export,
        Inspection,
        Measured,
        MissingPackageError,
        ParityError,
        Project,
        Recipe,
        RecipeError,
        RefusedError,
        Score,
        Sensitivity,
        Session,
        SlmkitError,
        Tap,
        TaskReport,
        TaskRequest,
        TaskScore,
        TextScore,
        UsageError,
        add_adapter,
        benchmark,
        build,
        check_app,
        compare,
        compare_layers,
        estimate,
        evaluate_answers,
        evaluate_tasks,
        evaluate_text,
        inspect,
        load,
        new_app,
        prove_on,
        sensitivity,
        targets,
    )

if sys.version_info < (3, 11):  # noqa: UP036  older ones must be able to read this file
    sys.exit("slmkit needs Python 3.11 or newer; this is Python " + sys.version.split()[0])

__version__ = "0.1.0"
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
    "Inspection",
    "Measured",
    "MissingPackageError",
    "ParityError",
    "Project",
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
    "__version__",
    "add_adapter",
    "benchmark",
    "build",
    "check_app",
    "compare",
    "compare_layers",
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


def __getattr__(name: str) -> Any:
    """Import the public API when it is first used: ``import slmkit`` alone loads no library."""
    if name in __all__:
        return getattr(import_module("slmkit.api"), name)
    raise AttributeError(f"module 'slmkit' has no attribute {name!r}")
