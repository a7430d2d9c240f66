"""Compilation of libraries in a worker process, because a failing dlight rule ends its process."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import tvm
from tvm import relax
from tvm.support import tar

from slmkit.system.subprocess_worker import Report
from slmkit_mlc.compiler.library import read_objects, write_objects
from slmkit_mlc.compiler.pipeline import Observer, Pass, gpu_schedules, lowering
from slmkit_mlc.contract import FUNCTIONS, prefix_of
from slmkit_mlc.gpus import Gpu, gpu_from_json
from slmkit_mlc.lowering.definition import Definition, read_definition
from slmkit_mlc.lowering.logits import add_logit_functions
from slmkit_mlc.lowering.program import Writer
from slmkit_mlc.lowering.sampling import add_samplers
from slmkit_mlc.lowering.signatures import check_signatures

# Error of TVM 0.27.0.post1's common subexpression elimination, in attention over a single kv head
# of 32 or 64. The pass can be left out: the GPU's own compiler eliminates them too.
CSE_ERROR = "used before definition"
Module = Any


def compile_job(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """Compile one GPU's library; the entry point of the worker process.

    Returns the signatures of the library's functions and their planned memory in bytes.
    """
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # TVM's handler reads symbols for a minute
    definition = read_definition(Path(payload["folder"]))
    gpu, name = gpu_from_json(payload["gpu"]), payload["library"]
    mod = gpu_module(definition, gpu)
    signatures = check_signatures(mod, definition, gpu)
    metadata = definition.metadata(payload["quantization"])
    mod = mod.with_attrs({"system_lib_prefix": prefix_of(name)})
    executable = build(
        mod, gpu.code_target, gpu_schedules(gpu), definition, metadata, prefix=prefix_of(name)
    )
    out = Path(payload["out"])
    executable.export_library(str(out), fcompile=tar.tar)
    write_objects(out, read_objects(out))
    return {"functions": signatures, "memory": metadata["memory_usage"]}


def gpu_module(definition: Definition, gpu: Gpu) -> Module:
    """The module with every function that MLC's engine looks up on a GPU."""
    more = [add_logit_functions]
    if gpu.target["kind"] == "metal":
        more.append(add_samplers)
    program = definition.program(definition.dtype)
    return Writer(program).module(gpu.code_target, FUNCTIONS, more)


def build(
    mod: Module,
    target: Any,
    schedules: Pass,
    definition: Definition,
    metadata: dict[str, Any],
    prefix: str = "",
    observe: Observer | None = None,
    asserts: bool = True,
) -> Any:
    """Lower, schedule and generate code; return an executable of TVM's virtual machine.

    ``metadata``: the library's, to which the planned memory is added; ``prefix``: of a system
    library's symbols; ``observe``: gets the module before it is scheduled; ``asserts``: whether
    host code checks its arguments.
    """
    config = {} if asserts else {"tirx.disable_assert": True}
    passes = lowering(definition.limits.bounds, schedules, metadata, observe)
    options = {"system_lib": True} if prefix else {}

    def build_with(**more: bool) -> Any:
        with target, tvm.transform.PassContext(opt_level=3, config={**config, **more}):
            return relax.build(mod, target=target, relax_pipeline=passes, **options)

    try:
        return build_with()
    except tvm.error.InternalError as error:
        if CSE_ERROR not in str(error):
            raise
        return build_with(**{"tirx.disable_cse_tir": True})
