"""Run packages in Core ML itself, on macOS, and read its own compute plan.

Nothing here runs on other systems; there the evaluator runs the packages, and reports say so.
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
    """True if Core ML is available."""
    return platform.system() == "Darwin"


def system_name(units: str) -> str:
    """The name of the runtime in reports."""
    return f"Core ML of macOS {platform.mac_ver()[0]}, {units}"


class DevicePackage:
    """A saved package loaded in Core ML: one model per function; all share the states."""

    def __init__(self, path: Path, functions: Sequence[str], units: str) -> None:
        chosen = ct.ComputeUnit[units.upper()]
        self.models = {
            name: ct.models.MLModel(str(path), compute_units=chosen, function_name=name)
            for name in functions
        }
        descriptions = self.models[functions[0]].get_spec().description.functions
        self.inputs = {each.name: [item.name for item in each.input] for each in descriptions}
        self.stateful = any(each.state for each in descriptions)
        self.state: Any = None

    def run(self, name: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run a function; return its outputs by name."""
        if self.stateful and self.state is None:
            self.state = self.models[name].make_state()
        typed = {each: _to_package_type(inputs[each]) for each in self.inputs[name]}
        outputs: dict[str, Array] = self.models[name].predict(typed, state=self.state)
        return outputs

    def reset(self) -> None:
        """Discard the states."""
        self.state = None


def compute_plan(path: Path, units: str) -> dict[str, dict[str, int]]:
    """Core ML's own plan: per function, the number of operations by preferred compute device."""
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


def _to_package_type(value: Array) -> Array:
    """int32 for integers, float16 for the rest."""
    return value.astype(np.int32 if value.dtype.kind == "i" else np.float16)
