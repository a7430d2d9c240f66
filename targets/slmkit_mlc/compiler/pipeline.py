"""TVM's passes from a Relax module to one that its virtual machine runs.

Legalization and fusion, schedules, static memory plan, lowering to virtual machine calls.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.s_tir import dlight

from slmkit.system.subprocess_worker import doing
from slmkit_mlc.compiler.workspace import PlanWorkspaces
from slmkit_mlc.contract import METADATA
from slmkit_mlc.gpus import Gpu

Module = Any
Pass = Any
RULES = ("Matmul", "GEMV", "Reduction", "GeneralReduction", "Fallback")  # the first that applies
SCHEDULED = "tirx.is_scheduled"
Observer = Callable[[Module], None]


def lowering(
    bounds: Mapping[str, int],
    schedules: Pass,
    metadata: dict[str, Any],
    observe: Observer | None = None,
) -> Pass:
    """All passes up to code generation, as one.

    ``bounds``: upper bounds of symbolic lengths; ``observe``: gets the module before it is
    scheduled; the planned memory is added to ``metadata`` as ``memory_usage``.
    """
    passes = relax.transform

    @tvm.transform.module_pass(opt_level=0)
    def run(mod: Module, _: Any) -> Module:
        return tvm.transform.Sequential(
            [
                relax.backend.DispatchSampling(),
                relax.backend.DispatchSortScan(),
                passes.LegalizeOps(),
                passes.AnnotateTIROpPattern(),
                passes.FoldConstant(),
                passes.FuseOps(),
                passes.FuseTIR(),
                passes.DeadCodeElimination(),
                observer_pass(observe),
                schedules,
                NarrowIndices(),
                passes.RewriteDataflowReshape(),
                passes.DeadCodeElimination(),
                passes.ToNonDataflow(),
                passes.RemovePurityChecking(),
                passes.CallTIRRewrite(),
                passes.StaticPlanBlockMemory(),
                _add_metadata(metadata),
                passes.LowerAllocTensor(),
                passes.KillAfterLastUse(),
                passes.LowerRuntimeBuiltin(),
                passes.VMShapeLower(),
            ]
        )(_with_bounds(mod, bounds))

    return run


def observer_pass(observe: Observer | None) -> Pass:
    """A pass that passes the module to ``observe`` and changes nothing."""

    @tvm.transform.module_pass(opt_level=0)
    def run(mod: Module, _: Any) -> Module:
        if observe is not None:
            observe(mod)
        return mod

    return run


@tvm.transform.module_pass(opt_level=0)
class NarrowIndices:
    """Make indices int32, which GPUs compute faster, except in kernels that need int64 (a sort)."""

    def transform_module(self, mod: Module, _: Any) -> Module:
        """Narrow each kernel that can be narrowed."""
        narrow = tirx.transform.ForceNarrowIndexToInt32()
        for global_var, function in mod.functions_items():
            if isinstance(function, tirx.PrimFunc):
                try:
                    mod[global_var] = narrow(tvm.IRModule({global_var: function}))[global_var]
                except tvm.error.InternalError:  # a constant does not fit
                    continue
        return mod


def gpu_schedules(gpu: Gpu) -> Pass:
    """A pass that schedules every kernel for a GPU, one at a time, in the order of their names, and
    plans their workspaces.

    A rule of dlight may end the process; the worker's error then names the kernel. Schedules for a
    CPU have tiles in place of workspaces: planned, each would be as large as its whole matrix.
    """

    @tvm.transform.module_pass(opt_level=0)
    def run(mod: Module, _: Any) -> Module:
        for global_var, function in sorted(mod.functions_items(), key=_name):
            if isinstance(function, tirx.PrimFunc) and SCHEDULED not in function.attrs:
                doing(f"scheduling {global_var.name_hint}")
                mod = _schedule(mod, global_var, function, gpu)
        doing(f"generating code for {len(mod.functions)} functions")
        return mod

    return tvm.transform.Sequential([run, PlanWorkspaces()])


def _name(item: tuple[Any, Any]) -> str:
    """The name of an item of ``IRModule.functions_items()``."""
    global_var, _ = item
    return str(global_var.name_hint)


def _schedule(mod: Module, global_var: Any, function: Any, gpu: Gpu) -> Module:
    """Schedule one function of a module by the first rule that applies to it."""
    for rule in RULES:
        target = gpu.schedule_target(rule)
        with target:
            result = _apply_rule(rule, function, target)
        if result is None:
            continue
        if isinstance(result, list):
            result = result[0]
        if hasattr(result, "mod"):  # a schedule; otherwise it is a function
            result = result.mod["main"].with_attr(SCHEDULED, True)
        mod[global_var] = result
        return mod
    raise ValueError(f"no schedule for {global_var.name_hint}")


def _apply_rule(rule: str, function: Any, target: Any) -> Any:
    """The result of a dlight rule; None if it does not apply or fails."""
    try:
        return getattr(dlight.gpu, rule)().apply(function, target, False)
    except (AssertionError, tvm.s_tir.schedule.ScheduleError):
        return None


def _with_bounds(mod: Module, bounds: Mapping[str, int]) -> Module:
    """Annotate Relax functions with upper bounds of symbolic lengths, for the memory plan."""
    for global_var, function in mod.functions_items():
        if isinstance(function, relax.Function):
            mod[global_var] = (
                function.with_attr("tir_var_upper_bound", dict(bounds))
                .with_attr("tir_non_negative_var", ["vocab_size"])
                .with_attr("relax.memory_plan_dynamic_func_output", True)
            )
    return mod


def _add_metadata(metadata: dict[str, Any]) -> Pass:
    """A pass that adds the planned memory to ``metadata`` and the function ``_metadata``."""

    @tvm.transform.module_pass(opt_level=0)
    def run(mod: Module, _: Any) -> Module:
        metadata["memory_usage"] = {
            global_var.name_hint: planned_bytes(function)
            for global_var, function in sorted(mod.functions_items(), key=_name)
            if isinstance(function, relax.Function)
        }
        bb = relax.BlockBuilder()
        with bb.function(METADATA, []):
            bb.emit_func_output(tvm.ir.StringImm(json.dumps(metadata)))
        mod[METADATA] = bb.get()[METADATA]
        return mod

    return run


def planned_bytes(function: Any) -> int:
    """Bytes that a function allocates by the static memory plan.

    They are storages, and tensors outside of storages; allocations whose length is known only at
    run time count as 0.
    """
    total = 0

    def visit(node: Any) -> None:
        nonlocal total
        if not isinstance(node, relax.Call) or not isinstance(node.op, tvm.ir.Op):
            return
        item_bytes = ALLOCATIONS.get(node.op.name)
        if item_bytes and all(isinstance(length, tirx.IntImm) for length in node.args[0]):
            total += math.prod(int(length) for length in node.args[0]) * item_bytes(node)

    relax.analysis.post_order_visit(function, visit)
    return total


ALLOCATIONS: dict[str, Callable[[Any], int]] = {  # bytes of one item, by op
    "relax.memory.alloc_storage": lambda node: 1,
    "relax.builtin.alloc_tensor": lambda node: tvm.DataType(str(node.args[1].value)).itemsize,
}
