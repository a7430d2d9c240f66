"""Execution of the program on a Metal GPU: on macOS, with a TVM that has the Metal runtime.

Nothing here runs on Linux: reports say so, and its test is skipped with the reason. The wheel on
PyPI has the code generator for Metal without the runtime (0.27.0.post1).
"""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

from slmkit_mlc.gpus import Gpu
from slmkit_mlc.lowering.definition import Definition
from slmkit_mlc.verify.machine import Machine


def metal_present() -> bool:
    """Whether this machine has a Metal GPU that its TVM can use."""
    if platform.system() != "Darwin":
        return False
    import tvm

    return bool(tvm.metal(0).exist)


def metal_machine(definition: Definition, gpu: Gpu, params: Path) -> Machine:
    """Compile the library's functions for this machine's GPU and load them.

    ``gpu``: the row of gpus.json for Apple GPUs; ``params``: the folder of tensor-cache.json.
    """
    import tvm

    from slmkit_mlc.compiler.compile import build, gpu_module
    from slmkit_mlc.compiler.pipeline import gpu_schedules

    local = replace(gpu, target={**gpu.target, "libs": [], "host": {"kind": "llvm"}})
    mod = gpu_module(definition, local)
    executable = build(mod, local.code_target, gpu_schedules(local), definition, {})
    return Machine(executable, definition, params, tvm.metal(0))
