"""OpenCL on this machine's CPU: find the runtime, build kernels, launch them on TVM's memory."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.backend.registry import pip_command
from slmkit.backend.threads import threads
from slmkit.errors import BackendError

LIBRARY = "libintelocl.so"
AXES = "xyz"


@dataclass(frozen=True)
class Kernel:
    """One kernel of a library."""

    name: str
    source: str  # OpenCL C
    types: tuple[str, ...]  # of the arguments, NumPy's names; unused for pointers
    launch: tuple[str, ...]  # "blockIdx.x", ...: the sizes that follow the arguments of a launch


def runtime() -> Path | None:
    """The library of Intel's OpenCL runtime for CPUs (the PyPI package intel-opencl-rt).

    None if it or pyopencl is not installed.
    """
    try:
        libraries = [file for file in files("intel-opencl-rt") or () if file.name == LIBRARY]
        files("pyopencl")
    except PackageNotFoundError:
        return None
    path = Path(str(libraries[0].locate())).resolve() if libraries else None
    return path if path and path.is_file() else None


class Device:
    """The CPU as an OpenCL device, with the kernels that were built for it."""

    def __init__(self, optimize: bool, binaries: Mapping[str, bytes]) -> None:
        """``optimize``: whether to optimize kernels, which then compile longer and run faster;
        ``binaries``: of kernels that were built before, by name.

        Raises BackendError if the runtime is not installed.
        """
        library = runtime()
        if library is None:
            raise BackendError(
                "no OpenCL runtime for this processor is installed",
                pip_command(["slmkit[opencl]"]),
            )
        os.environ["OCL_ICD_VENDORS"] = str(library)
        os.environ["PYOPENCL_NO_CACHE"] = "1"
        if share := threads(0):
            os.environ["CL_CONFIG_CPU_TBB_NUM_WORKERS"] = str(share)
        import pyopencl

        self.cl = pyopencl
        device = pyopencl.get_platforms()[0].get_devices()[0]
        self.context, self.device = pyopencl.Context([device]), device
        self.queue = pyopencl.CommandQueue(self.context)
        self.options = [] if optimize else ["-cl-opt-disable"]
        self.name = f"OpenCL {device.driver_version} ({device.name.strip()})"
        self.built: dict[str, Any] = {}  # kernels by name
        self.programs: dict[str, Any] = {}  # the same
        self._known = dict(binaries)

    def launch(self, kernel: Kernel, args: Sequence[Any]) -> None:
        """Run a kernel and wait for it. ``args``: its arguments, then the sizes of the launch."""
        count = len(args) - len(kernel.launch)
        sizes = dict(zip(kernel.launch, args[count:], strict=True))
        groups = [int(sizes.get(f"blockIdx.{axis}", 1)) for axis in AXES]
        threads = [int(sizes.get(f"threadIdx.{axis}", 1)) for axis in AXES]
        compiled = self._build(kernel)
        for index, (value, dtype) in enumerate(zip(args[:count], kernel.types, strict=True)):
            compiled.set_arg(index, self._argument(value, dtype))
        total = tuple(group * thread for group, thread in zip(groups, threads, strict=True))
        self.cl.enqueue_nd_range_kernel(self.queue, compiled, total, tuple(threads))
        self.queue.finish()

    def binaries(self) -> dict[str, bytes]:
        """The kernels that were built here or before, for another device of this processor."""
        what = self.cl.program_info.BINARIES
        built = {name: each.get_info(what)[0] for name, each in self.programs.items()}
        return {**self._known, **built}

    def _build(self, kernel: Kernel) -> Any:
        """The compiled kernel; each is built once."""
        if kernel.name not in self.built:
            binary = self._known.get(kernel.name)
            if binary is None:
                program = self.cl.Program(self.context, kernel.source)
            else:
                program = self.cl.Program(self.context, [self.device], [binary])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # compiler warnings about unused names
                self.programs[kernel.name] = built = program.build(self.options)
            self.built[kernel.name] = getattr(built, kernel.name)
        return self.built[kernel.name]

    def _argument(self, value: Any, dtype: str) -> Any:
        """A TVM pointer as shared virtual memory; a number in the type that the kernel declares."""
        if value is None or isinstance(value, ctypes.c_void_p):
            address = getattr(value, "value", None)
            if not address:
                return None
            start = (ctypes.c_char * 1).from_address(address)
            return self.cl.SVM(np.ctypeslib.as_array(start))
        return np.dtype(dtype).type(value)
