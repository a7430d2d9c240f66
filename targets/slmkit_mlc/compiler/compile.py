"""A GPU's module: written, lowered once, linked with code for a phone or for this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tvm
from tvm import relax
from tvm.support import tar

from slmkit_mlc.compiler.library import read_objects, write_objects
from slmkit_mlc.compiler.pipeline import Observer, Pass, gpu_schedules, lowering, observer_pass
from slmkit_mlc.contract import FUNCTIONS, prefix_of
from slmkit_mlc.gpus import Gpu
from slmkit_mlc.lowering.definition import Definition
from slmkit_mlc.lowering.logits import add_logit_functions
from slmkit_mlc.lowering.program import Writer
from slmkit_mlc.lowering.sampling import add_samplers

# Error of TVM 0.27.0.post1's common subexpression elimination, in attention over a single kv head
# of 32 or 64. The pass can be left out: the GPU's own compiler eliminates them too.
CSE_ERROR = "used before definition"
Module = Any


def gpu_module(definition: Definition, gpu: Gpu) -> Module:
    """The module with every function that MLC's engine looks up on a GPU."""
    more = [add_logit_functions]
    if gpu.target["kind"] == "metal":
        more.append(add_samplers)
    program = definition.program(definition.dtype)
    return Writer(program).module(gpu.code_target, FUNCTIONS, more)


def lower_for_gpu(
    mod: Module,
    gpu: Gpu,
    definition: Definition,
    metadata: dict[str, Any],
    observe: Observer | None = None,
    observe_scheduled: Observer | None = None,
) -> Module:
    """A copy of ``mod`` with every kernel scheduled for a GPU, ready for code generation.

    ``metadata``: the library's, to which the planned memory is added; ``observe`` and
    ``observe_scheduled``: get the module before and after it is scheduled.
    """
    copy = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
    schedules = tvm.transform.Sequential([gpu_schedules(gpu), observer_pass(observe_scheduled)])
    return lower(copy, gpu.code_target, schedules, definition, metadata, observe)


def write_library(lowered: Module, gpu: Gpu, name: str, out: Path) -> None:
    """Generate a GPU's code and its host's, and write them as a library of object files."""
    executable = link(lowered, gpu.code_target, prefix=prefix_of(name))
    executable.export_library(str(out), fcompile=tar.tar)
    write_objects(out, read_objects(out))


def build(
    mod: Module,
    target: Any,
    schedules: Pass,
    definition: Definition,
    metadata: dict[str, Any],
) -> Any:
    """Lower, schedule and generate code; return an executable of TVM's virtual machine."""
    return link(lower(mod, target, schedules, definition, metadata), target)


def lower(
    mod: Module,
    target: Any,
    schedules: Pass,
    definition: Definition,
    metadata: dict[str, Any],
    observe: Observer | None = None,
) -> Module:
    """Everything but code generation: see ``slmkit_mlc.compiler.pipeline.lowering``."""
    passes = lowering(definition.limits.bounds, schedules, metadata, observe)
    with target, tvm.transform.PassContext(opt_level=3):
        return passes(mod)


def link(lowered: Module, target: Any, prefix: str = "", asserts: bool = True) -> Any:
    """Generate the code of a lowered module: an executable of TVM's virtual machine.

    ``prefix``: of a system library's symbols; ``asserts``: whether host code checks its arguments.
    """
    config = {} if asserts else {"tirx.disable_assert": True}
    options = {"system_lib": True} if prefix else {}
    mod = lowered.with_attrs({"system_lib_prefix": prefix}) if prefix else lowered

    def link_with(**more: bool) -> Any:
        with target, tvm.transform.PassContext(opt_level=3, config={**config, **more}):
            named = relax.transform.AttachGlobalSymbol()(mod)
            return relax.build(named, target=target, relax_pipeline=None, **options)

    try:
        return link_with()
    except tvm.error.InternalError as error:
        if CSE_ERROR not in str(error):
            raise
        return link_with(**{"tirx.disable_cse_tir": True})
