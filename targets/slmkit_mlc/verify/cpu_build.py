"""A library's kernels on this machine: its host code runs, kernels are launched on OpenCL.

Kernels are launched on an OpenCL runtime, with the sizes that the host code computes. Every
kernel's source must be contained in the library, byte for byte, which proves that it is the
library's own. For a GPU whose language has no runtime here (Metal), the build has the same
schedules in OpenCL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tvm

from slmkit.errors import BackendError
from slmkit_mlc.compiler.library import read_objects
from slmkit_mlc.contract import prefix_of
from slmkit_mlc.lowering.definition import Definition
from slmkit_mlc.verify.host_code import HOOK, HostCode
from slmkit_mlc.verify.opencl import Device, Kernel

# From this size on, optimized kernels save more time than their compilation takes.
OPTIMIZED_FROM = 32_000_000  # parameters
Launch = Callable[..., None]


class CpuBuild:
    """Host code and kernels of one GPU's module, registered to be run.

    ``module``: for TVM's virtual machine; ``kernels``: all kernels by name; ``executed``: names of
    the kernels that were launched.
    """

    def __init__(
        self,
        definition: Definition,
        code: HostCode,
        library: Path | None,
        watch: Callable[[str, Launch], Launch] | None = None,
    ) -> None:
        """Compare the kernels with those of ``library``, unless it is None, and register them.

        ``watch``: wraps each kernel of the KV cache and of recurrent states, by its name. Raises
        BackendError if the library has other kernels, or if no OpenCL runtime is installed.
        """
        matrices = definition.table.matrices.values()
        parameters = sum(matrix.rows * matrix.width for matrix in matrices)
        self.device = Device(optimize=parameters >= OPTIMIZED_FROM, binaries=code.binaries)
        self.code, self.kernels = code, code.kernels
        self.module = code.module
        self.executed: set[str] = set()
        if library is not None:
            check_sources(self.kernels, library)
        self._register_kernels()
        for name, symbol in code.hooked.items():
            kernel = self.module.get_function(symbol, query_imports=True)
            function = watch(name, kernel) if watch else kernel
            tvm.register_global_func(HOOK + name, function, override=True)

    def save(self, folder: Path) -> None:
        """Write the code, with every kernel that was built, for ``load_host_code``."""
        replace(self.code, binaries=self.device.binaries()).save(folder)

    def _register_kernels(self) -> None:
        """Register each kernel as a global function, under the name that the host code calls."""
        tvm.register_global_func("__tvm_set_device", lambda *args: None, override=True)
        for kernel in self.kernels.values():
            tvm.register_global_func(kernel.name, self._launcher(kernel), override=True)

    def _launcher(self, kernel: Kernel) -> Launch:
        def launch(*args: Any) -> None:
            self.executed.add(kernel.name)
            self.device.launch(kernel, args)

        return launch


def check_sources(kernels: Mapping[str, Kernel], library: Path) -> None:
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
