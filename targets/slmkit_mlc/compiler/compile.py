"""Compile libraries in a process of its own: a failing rule of TVM ends a process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tvm
from tvm import relax
from tvm.support import tar

from slmkit_mlc.compiler.library import objects, write_objects
from slmkit_mlc.compiler.pipeline import Look, Pass, for_gpu, lowering
from slmkit_mlc.contract import FUNCTIONS, prefix_of
from slmkit_mlc.gpus import Gpu, gpu_from_json
from slmkit_mlc.lowering.definition import Definition, read_definition
from slmkit_mlc.lowering.logits import add_logit_functions
from slmkit_mlc.lowering.program import Writer
from slmkit_mlc.lowering.sampling import add_samplers
from slmkit_mlc.lowering.signatures import checked

# What TVM 0.27.0.post1 says of its own search for common subexpressions, in attention over a single
# kv head of 32 or 64: a GPU's own compiler does without it.
MISPLACED = "used before definition"
Report = Callable[[int, int], None]
Module = Any


def compile_job(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """In the process of its own: one GPU's library, and what is in it."""
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # TVM's handler reads symbols for a minute
    definition = read_definition(Path(payload["folder"]))
    gpu, name = gpu_from_json(payload["gpu"]), payload["library"]
    mod = gpu_module(definition, gpu)
    signatures = checked(mod, definition, gpu)
    metadata = definition.metadata(payload["quantization"])
    mod = mod.with_attrs({"system_lib_prefix": prefix_of(name)})
    executable = build(
        mod, gpu.code_target, for_gpu(gpu), definition, metadata, prefix=prefix_of(name)
    )
    out = Path(payload["out"])
    executable.export_library(str(out), fcompile=tar.tar)
    write_objects(out, objects(out))
    return {"functions": signatures, "memory": metadata["memory_usage"]}


def gpu_module(definition: Definition, gpu: Gpu) -> Module:
    """All functions that MLC's engine looks up on a GPU."""
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
    look: Look | None = None,
    asserts: bool = True,
) -> Any:
    """Lower, schedule and generate code. -> an executable of TVM's virtual machine"""
    config = {} if asserts else {"tirx.disable_assert": True}
    passes = lowering(definition.limits.bounds, schedules, metadata, look)

    def built(**more: bool) -> Any:
        with target, tvm.transform.PassContext(opt_level=3, config={**config, **more}):
            return relax.build(
                mod,
                target=target,
                relax_pipeline=passes,
                **({"system_lib": True} if prefix else {}),
            )

    try:
        return built()
    except tvm.error.InternalError as error:
        if MISPLACED not in str(error):
            raise
        return built(**{"tirx.disable_cse_tir": True})
