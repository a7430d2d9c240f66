"""Core ML itself, on macOS: the same packages, predicted by the system, and its own plan.

Nothing here runs on Linux; the evaluator stands in there, and reports say so.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np

from slmkit_coreml.layout import Array


def on_macos() -> bool:
    """Whether Core ML is there."""
    return platform.system() == "Darwin"


def system(units: str) -> str:
    """The runtime's name for reports."""
    return f"Core ML of macOS {platform.mac_ver()[0]}, {units}"


class DevicePackage:
    """A saved package in Core ML: one model per function; they share the states."""

    def __init__(self, path: Path, functions: Sequence[str], units: str) -> None:
        chosen = ct.ComputeUnit[units.upper()]
        self.models = {
            name: ct.models.MLModel(str(path), compute_units=chosen, function_name=name)
            for name in functions
        }
        described = self.models[functions[0]].get_spec().description.functions
        self.inputs = {each.name: [given.name for given in each.input] for each in described}
        self.stateful = any(each.state for each in described)
        self.state: Any = None

    def run(self, name: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of a function by name."""
        if self.stateful and self.state is None:
            self.state = self.models[name].make_state()
        given = {each: _typed(inputs[each]) for each in self.inputs[name]}
        found: dict[str, Array] = self.models[name].predict(given, state=self.state)
        return found

    def reset(self) -> None:
        """Forget what the states hold."""
        self.state = None


def compute_plan(path: Path, units: str) -> dict[str, dict[str, int]]:
    """Core ML's own plan: per function, how many operations it prefers to run where."""
    from coremltools.models.compute_plan import MLComputePlan

    compiled = ct.models.utils.compile_model(str(path))
    plan = MLComputePlan.load_from_path(compiled, compute_units=ct.ComputeUnit[units.upper()])
    return {
        name: dict(Counter(_device(plan, op) for op in function.block.operations))
        for name, function in plan.model_structure.program.functions.items()
    }


def _device(plan: Any, operation: Any) -> str:
    usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
    return "none" if usage is None else type(usage.preferred_compute_device).__name__


def _typed(value: Array) -> Array:
    return value.astype(np.int32 if value.dtype.kind == "i" else np.float16)
