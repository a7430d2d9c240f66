"""From a Relax module to one that TVM's virtual machine runs: lowering, schedules, memory plan."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.s_tir import dlight

from slmkit.system.subprocess_worker import doing
from slmkit_mlc.compiler.workspace import WorkspacesPlanned
from slmkit_mlc.contract import METADATA
from slmkit_mlc.gpus import Gpu

Module = Any
Pass = Any
RULES = ("Matmul", "GEMV", "Reduction", "GeneralReduction", "Fallback")  # the first that fits
SCHEDULED = "tirx.is_scheduled"
Look = Callable[[Module], None]


def lowering(
    bounds: Mapping[str, int], schedules: Pass, metadata: dict[str, Any], look: Look | None = None
) -> Pass:
    """The passes, in their order. ``look`` sees the kernels before they are scheduled; the memory
    that was planned is added to ``metadata``."""
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
                seeing(look),
                schedules,
                WorkspacesPlanned(),
                IndicesNarrowed(),
                passes.RewriteDataflowReshape(),
                passes.DeadCodeElimination(),
                passes.ToNonDataflow(),
                passes.RemovePurityChecking(),
                passes.CallTIRRewrite(),
                passes.StaticPlanBlockMemory(),
                _described(metadata),
                passes.LowerAllocTensor(),
                passes.KillAfterLastUse(),
                passes.LowerRuntimeBuiltin(),
                passes.VMShapeLower(),
                passes.AttachGlobalSymbol(),
            ]
        )(_bounded(mod, bounds))

    return run


def seeing(look: Look | None) -> Pass:
    """A pass that changes nothing."""

    @tvm.transform.module_pass(opt_level=0)
    def run(mod: Module, _: Any) -> Module:
        if look is not None:
            look(mod)
        return mod

    return run


@tvm.transform.module_pass(opt_level=0)
class IndicesNarrowed:
    """Indices as int32, which GPUs compute faster, but for kernels that count beyond (a sort)."""

    def transform_module(self, mod: Module, _: Any) -> Module:
        """The module with each kernel narrowed that can be."""
        narrow = tirx.transform.ForceNarrowIndexToInt32()
        for own, function in mod.functions_items():
            if isinstance(function, tirx.PrimFunc):
                try:
                    mod[own] = narrow(tvm.IRModule({own: function}))[own]
                except tvm.error.InternalError:  # a constant does not fit
                    continue
        return mod


def for_gpu(gpu: Gpu) -> Pass:
    """Every kernel for a GPU, one at a time: a rule of dlight may end the process, which then is
    known to have died at this kernel."""

    @tvm.transform.module_pass(opt_level=0)
    def run(mod: Module, _: Any) -> Module:
        for own, function in sorted(mod.functions_items(), key=lambda each: each[0].name_hint):
            if isinstance(function, tirx.PrimFunc) and SCHEDULED not in function.attrs:
                doing(f"scheduling {own.name_hint}")
                mod = _scheduled(mod, own, function, gpu)
        doing(f"generating code for {len(mod.functions)} functions")
        return mod

    return run


def _scheduled(mod: Module, own: Any, function: Any, gpu: Gpu) -> Module:
    """The module with one function scheduled by the first rule that fits."""
    for rule in RULES:
        target = gpu.schedule_target(rule)
        with target:
            found = _applied(rule, function, target)
        if found is not None:
            one = found[0] if isinstance(found, list) else found
            mod[own] = one.mod["main"].with_attr(SCHEDULED, True) if hasattr(one, "mod") else one
            return mod
    raise ValueError(f"no schedule for {own.name_hint}")


def _applied(rule: str, function: Any, target: Any) -> Any:
    """What a rule of dlight makes of a function; None if it does not fit, or trips over it."""
    try:
        return getattr(dlight.gpu, rule)().apply(function, target, False)
    except (AssertionError, tvm.s_tir.schedule.ScheduleError):
        return None


def _bounded(mod: Module, bounds: Mapping[str, int]) -> Module:
    """Relax functions with the largest lengths that their memory is planned for."""
    for own, function in mod.functions_items():
        if isinstance(function, relax.Function):
            mod[own] = (
                function.with_attr("tir_var_upper_bound", dict(bounds))
                .with_attr("tir_non_negative_var", ["vocab_size"])
                .with_attr("relax.memory_plan_dynamic_func_output", True)
            )
    return mod


def _described(metadata: dict[str, Any]) -> Pass:
    """Add the function that tells what the library is, with the memory it has planned."""

    @tvm.transform.module_pass(opt_level=0)
    def run(mod: Module, _: Any) -> Module:
        metadata["memory_usage"] = {
            own.name_hint: planned_bytes(function)
            for own, function in sorted(mod.functions_items(), key=lambda each: each[0].name_hint)
            if isinstance(function, relax.Function)
        }
        bb = relax.BlockBuilder()
        with bb.function(METADATA, []):
            bb.emit_func_output(tvm.ir.StringImm(json.dumps(metadata)))
        mod[METADATA] = bb.get()[METADATA]
        return mod

    return run


def planned_bytes(function: Any) -> int:
    """What a function allocates, by the static plan: storages, and tensors outside of them; a
    length that is known at run time only counts as nothing."""
    total = 0

    def visit(node: Any) -> None:
        nonlocal total
        if isinstance(node, relax.Call) and isinstance(node.op, tvm.ir.Op):
            name = node.op.name
            if name in ALLOCATIONS and all(isinstance(each, tirx.IntImm) for each in node.args[0]):
                count = math.prod(int(length) for length in node.args[0])
                total += count * ALLOCATIONS[name](node)

    relax.analysis.post_order_visit(function, visit)
    return total


ALLOCATIONS: dict[str, Callable[[Any], int]] = {  # bytes of one number
    "relax.memory.alloc_storage": lambda node: 1,
    "relax.builtin.alloc_tensor": lambda node: tvm.DataType(str(node.args[1].value)).itemsize,
}
