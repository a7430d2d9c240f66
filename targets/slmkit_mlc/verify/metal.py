"""The program on a Metal GPU, on macOS, where TVM has its Metal runtime.

Nothing here runs on Linux: reports say so, and its test is skipped with the reason. PyPI's wheel
has Metal's code generator without the runtime (0.27.0.post1).
"""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

from slmkit_mlc.gpus import Gpu
from slmkit_mlc.lowering.definition import Definition
from slmkit_mlc.verify.machine import Machine


def metal_present() -> bool:
    """Whether this computer and this TVM can run Metal."""
    if platform.system() != "Darwin":
        return False
    import tvm

    return bool(tvm.metal(0).exist)


def on_metal(definition: Definition, gpu: Gpu, params: Path) -> Machine:
    """The library's functions for this computer's GPU, loaded."""
    import tvm

    from slmkit_mlc.compiler.compile import build, gpu_module
    from slmkit_mlc.compiler.pipeline import for_gpu

    here = replace(gpu, target={**gpu.target, "libs": [], "host": {"kind": "llvm"}})
    mod = gpu_module(definition, here)
    executable = build(mod, here.code_target, for_gpu(here), definition, {})
    return Machine(executable, definition, params, tvm.metal(0))
