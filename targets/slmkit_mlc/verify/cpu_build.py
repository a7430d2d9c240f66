"""The twin of a library: its kernels driven by host code for this processor.

TVM compiles the same module with the same schedules once more; only the host's processor differs.
Kernels are launched with the sizes that this host code computes, on an OpenCL runtime. Every
kernel's source must lie in the library itself, letter for letter: then it is the library's own.
For a GPU whose language no runtime here takes (Metal), the twin has the same schedules in OpenCL.
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
from slmkit_mlc.compiler.library import objects
from slmkit_mlc.compiler.pipeline import RULES, Look, for_gpu, seeing
from slmkit_mlc.contract import prefix_of
from slmkit_mlc.gpus import Gpu
from slmkit_mlc.lowering.definition import Definition
from slmkit_mlc.verify.opencl import Device, Kernel

GENERATOR = "target.build.opencl"
SECTION = "// Function: "
# Above, an optimizing compiler saves more time than it takes.
OPTIMIZED_FROM = 32_000_000  # parameters


class Twin:
    """Compiled kernels of a GPU, ready to be launched here."""

    def __init__(
        self,
        definition: Definition,
        gpu: Gpu,
        library: Path | None,
        change: Callable[[Any], Any] | None = None,
        look: Look | None = None,
        scheduled: Look | None = None,
    ) -> None:
        """``look`` sees the kernels before they are scheduled, ``scheduled`` after."""
        mod = gpu_module(definition, gpu)
        mod = change(mod) if change else mod
        numbers = sum(matrix.rows * matrix.width for matrix in definition.table.matrices.values())
        self.device = Device(numbers >= OPTIMIZED_FROM)
        here = local(gpu)
        with _captured() as kernels:
            schedules = tvm.transform.Sequential([for_gpu(here), seeing(scheduled)])
            self.executable = build(
                mod, here.code_target, schedules, definition, {}, look=look, asserts=False
            )
        self.kernels = kernels
        self.executed: set[str] = set()
        if library is not None:
            check_sources(kernels, library)
        self._serve()

    def _serve(self) -> None:
        """Let the host code find every kernel as a function of its name."""
        tvm.register_global_func("__tvm_set_device", lambda *given: None, override=True)
        for kernel in self.kernels.values():
            tvm.register_global_func(kernel.name, self._launcher(kernel), override=True)

    def _launcher(self, kernel: Kernel) -> Callable[..., None]:
        def launch(*given: Any) -> None:
            self.executed.add(kernel.name)
            self.device.launch(kernel, given)

        return launch


def local(gpu: Gpu) -> Gpu:
    """The same schedules, code in OpenCL, and a host that this computer is."""
    schedules = {rule: gpu.schedule.get(rule, gpu.target) for rule in RULES}
    target = gpu.target if gpu.target["kind"] == "opencl" else gpu.schedule["Matmul"]
    return replace(gpu, target={**target, "host": {"kind": "llvm"}}, schedule=schedules)


def check_sources(kernels: dict[str, Kernel], library: Path) -> None:
    """Raise BackendError for a kernel whose code is not in the library."""
    prefix = prefix_of(library.stem)
    inside = b"".join(objects(library).values())
    for kernel in kernels.values():
        if body_of(kernel).replace(kernel.name, prefix + kernel.name).encode() not in inside:
            raise BackendError(
                f"{library.name} holds another kernel {kernel.name} than the one that was run",
                "the versions of TVM may differ from those of the build: see slmkit doctor",
            )


def body_of(kernel: Kernel) -> str:
    """A kernel's own code, without the declarations of the others."""
    start = kernel.source.rindex(f"__kernel void {kernel.name}(")
    return kernel.source[start:].strip()


@contextmanager
def _captured() -> Iterator[dict[str, Kernel]]:
    """Keep what TVM's OpenCL generator writes, without its module, which would need a driver."""
    original, found = tvm.get_global_func(GENERATOR), {}

    def generate(mod: Any, target: Any) -> Any:
        sources = {}
        for section in original(mod, target).inspect_source().split(SECTION)[1:]:
            name, _, source = section.partition("\n")
            sources[name.strip()] = source
        for _, function in mod.functions_items():
            name = str(function.attrs["global_symbol"])
            types = tuple(_kind(param) for param in function.params)
            launch = tuple(str(tag) for tag in function.attrs["tirx.kernel_launch_params"])
            found[name] = Kernel(name, sources[name], types, launch)
        empty = tvm.get_global_func("target.build.llvm")
        return empty(tvm.IRModule({}), tvm.target.Target("llvm"))

    tvm_ffi.register_global_func(GENERATOR, generate, override=True)
    try:
        yield found
    finally:
        tvm_ffi.register_global_func(GENERATOR, original, override=True)


def _kind(param: Any) -> str:
    return str(param.ty)
