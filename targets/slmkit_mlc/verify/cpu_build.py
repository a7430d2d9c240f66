"""A library's kernels built to run on this machine: host code for its CPU, kernels on OpenCL.

TVM compiles the library's module with the same schedules once more, with this CPU as the host's
target. Kernels are launched on an OpenCL runtime, with the sizes that the host code computes. Every
kernel's source must be contained in the library, byte for byte, which proves that it is the
library's own. For a GPU whose language has no runtime here (Metal), the build has the same
schedules in OpenCL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi

from slmkit.errors import BackendError
from slmkit_mlc.compiler.compile import build, gpu_module
from slmkit_mlc.compiler.library import read_objects
from slmkit_mlc.compiler.pipeline import RULES, Observer, gpu_schedules, observer_pass
from slmkit_mlc.contract import prefix_of
from slmkit_mlc.gpus import Gpu
from slmkit_mlc.lowering.definition import Definition
from slmkit_mlc.verify.opencl import Device, Kernel

GENERATOR = "target.build.opencl"  # TVM's global function that generates OpenCL code
SECTION = "// Function: "  # precedes each kernel in the generated code
# From this size on, optimized kernels save more time than their compilation takes.
OPTIMIZED_FROM = 32_000_000  # parameters


class CpuBuild:
    """Compiled host code and kernels of one GPU's module.

    ``executable``: for TVM's virtual machine; ``kernels``: all kernels by name; ``executed``: names
    of the kernels that were launched.
    """

    def __init__(
        self,
        definition: Definition,
        gpu: Gpu,
        library: Path | None,
        change: Callable[[Any], Any] | None = None,
        observe: Observer | None = None,
        observe_scheduled: Observer | None = None,
    ) -> None:
        """Compile, and compare the kernels with those of ``library``, unless it is None.

        ``change``: is applied to the module first; ``observe``, ``observe_scheduled``: get the
        module before and after scheduling. Raises BackendError if the library has other kernels, or
        if no OpenCL runtime is installed.
        """
        mod = gpu_module(definition, gpu)
        mod = change(mod) if change else mod
        matrices = definition.table.matrices.values()
        parameters = sum(matrix.rows * matrix.width for matrix in matrices)
        self.device = Device(optimize=parameters >= OPTIMIZED_FROM)
        local = local_gpu(gpu)
        with _capture_kernels() as kernels:
            schedules = tvm.transform.Sequential(
                [gpu_schedules(local), observer_pass(observe_scheduled)]
            )
            self.executable = build(
                mod, local.code_target, schedules, definition, {}, observe=observe, asserts=False
            )
        self.kernels = kernels
        self.executed: set[str] = set()
        if library is not None:
            check_sources(kernels, library)
        self._register_kernels()

    def _register_kernels(self) -> None:
        """Register each kernel as a global function, under the name that the host code calls."""
        tvm.register_global_func("__tvm_set_device", lambda *args: None, override=True)
        for kernel in self.kernels.values():
            tvm.register_global_func(kernel.name, self._launcher(kernel), override=True)

    def _launcher(self, kernel: Kernel) -> Callable[..., None]:
        def launch(*args: Any) -> None:
            self.executed.add(kernel.name)
            self.device.launch(kernel, args)

        return launch


def local_gpu(gpu: Gpu) -> Gpu:
    """A GPU with the same schedules, OpenCL as its language, and this machine as its host."""
    schedules = {rule: gpu.schedule.get(rule, gpu.target) for rule in RULES}
    target = gpu.target if gpu.target["kind"] == "opencl" else gpu.schedule["Matmul"]
    return replace(gpu, target={**target, "host": {"kind": "llvm"}}, schedule=schedules)


def check_sources(kernels: dict[str, Kernel], library: Path) -> None:
    """Raise BackendError if a kernel's source is not contained in the library."""
    prefix = prefix_of(library.stem)
    content = b"".join(read_objects(library).values())
    for kernel in kernels.values():
        source = kernel_source(kernel).replace(kernel.name, prefix + kernel.name)
        if source.encode() not in content:
            raise BackendError(
                f"{library.name} holds another kernel {kernel.name} than the one that was run",
                "the versions of TVM may differ from those of the build: see slmkit doctor",
            )


def kernel_source(kernel: Kernel) -> str:
    """A kernel's own source, without the declarations of other kernels."""
    start = kernel.source.rindex(f"__kernel void {kernel.name}(")
    return kernel.source[start:].strip()


@contextmanager
def _capture_kernels() -> Iterator[dict[str, Kernel]]:
    """Collect the kernels that TVM's OpenCL generator writes, by name.

    TVM gets an empty module in place of the OpenCL module, which would need a driver.
    """
    original = tvm.get_global_func(GENERATOR)
    kernels: dict[str, Kernel] = {}

    def generate(mod: Any, target: Any) -> Any:
        sources = {}
        for section in original(mod, target).inspect_source().split(SECTION)[1:]:
            name, _, source = section.partition("\n")
            sources[name.strip()] = source
        for _, function in mod.functions_items():
            name = str(function.attrs["global_symbol"])
            types = tuple(str(param.ty) for param in function.params)
            launch = tuple(str(tag) for tag in function.attrs["tirx.kernel_launch_params"])
            kernels[name] = Kernel(name, sources[name], types, launch)
        build_llvm = tvm.get_global_func("target.build.llvm")
        return build_llvm(tvm.IRModule({}), tvm.target.Target("llvm"))

    tvm_ffi.register_global_func(GENERATOR, generate, override=True)
    try:
        yield kernels
    finally:
        tvm_ffi.register_global_func(GENERATOR, original, override=True)
