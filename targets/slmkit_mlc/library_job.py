"""Compilation and check of one GPU's library in a worker process, because a failing dlight rule
ends its process. The module is written once for both, and lowered once if it is OpenCL."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from slmkit.system.subprocess_worker import Report
from slmkit_mlc.compiler.compile import gpu_module, lower_for_gpu, write_library
from slmkit_mlc.gpus import gpu_from_json
from slmkit_mlc.lowering.definition import read_definition
from slmkit_mlc.lowering.signatures import check_signatures
from slmkit_mlc.verify.host_code import compile_host_code
from slmkit_mlc.verify.kernels import Checker, check_kernels


def library_job(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """Compile a library, execute and compare its kernels, or both; the entry point of the worker.

    ``compile``: name, quantization and the file ``out`` of the library, or None; ``check``: the
    file of the ``library`` (None if its code cannot be compared), the folder of its ``params``, and
    the folder ``out`` for the code that was executed, or None. Returns ``compiled``, the signatures
    of the library's functions and their planned memory in bytes, and ``checked``, the result of
    ``check_kernels``.
    """
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # TVM's handler reads symbols for a minute
    definition, gpu = read_definition(Path(payload["folder"])), gpu_from_json(payload["gpu"])
    compiling, checking = payload["compile"], payload["check"]
    mod, checker, lowered = gpu_module(definition, gpu), Checker(), None
    found: dict[str, Any] = {}
    if compiling:
        signatures = check_signatures(mod, definition, gpu)
        metadata = definition.metadata(compiling["quantization"])
        observe = checker.observe if gpu.is_opencl else None
        lowered = lower_for_gpu(mod, gpu, definition, metadata, observe)
        write_library(lowered, gpu, compiling["name"], Path(compiling["out"]))
        found["compiled"] = {"functions": signatures, "memory": metadata["memory_usage"]}
    if checking:
        lowered = lowered if gpu.is_opencl else None
        code = compile_host_code(definition, gpu, mod, lowered, checker.observe)
        library = Path(checking["library"]) if checking["library"] else None
        params = Path(checking["params"])
        found["checked"], build = check_kernels(checker, definition, gpu, code, library, params)
        if checking["out"]:
            build.save(Path(checking["out"]))
    return found
