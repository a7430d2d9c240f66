"""A CPU's OpenCL runtime: finds it, builds kernels, launches them on memory that TVM owns."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.errors import BackendError

LIBRARY = "libintelocl.so"
AXES = "xyz"


@dataclass(frozen=True)
class Kernel:
    """One kernel of a library: its source, the types of its inputs, what a launch says."""

    name: str
    source: str
    types: tuple[str, ...]  # NumPy's names; of a pointer anything
    launch: tuple[str, ...]  # "blockIdx.x", ..., in the order in which a launch gives them


def runtime() -> Path | None:
    """Intel's OpenCL runtime for CPUs out of PyPI, and pyopencl; None if one is missing."""
    try:
        found = [file for file in files("intel-opencl-rt") or () if file.name == LIBRARY]
        files("pyopencl")
    except PackageNotFoundError:
        return None
    path = Path(str(found[0].locate())).resolve() if found else None
    return path if path and path.is_file() else None


class Device:
    """The runtime's CPU. ``optimize``: whether kernels are worth the compiler's time."""

    def __init__(self, optimize: bool) -> None:
        library = runtime()
        if library is None:
            raise BackendError(
                "no OpenCL runtime for this processor is installed", 'pip install "slmkit[opencl]"'
            )
        os.environ["OCL_ICD_VENDORS"] = str(library)
        os.environ["PYOPENCL_NO_CACHE"] = "1"
        import pyopencl

        self.cl = pyopencl
        device = pyopencl.get_platforms()[0].get_devices()[0]
        self.context = pyopencl.Context([device])
        self.queue = pyopencl.CommandQueue(self.context)
        self.options = [] if optimize else ["-cl-opt-disable"]
        self.name = f"OpenCL {device.driver_version} ({device.name.strip()})"
        self.built: dict[str, Any] = {}

    def launch(self, kernel: Kernel, given: Sequence[Any]) -> None:
        """Run a kernel to its end: its inputs, then the sizes of the launch."""
        count = len(given) - len(kernel.launch)
        sizes = dict(zip(kernel.launch, given[count:], strict=True))
        groups = [int(sizes.get(f"blockIdx.{axis}", 1)) for axis in AXES]
        threads = [int(sizes.get(f"threadIdx.{axis}", 1)) for axis in AXES]
        compiled = self._compiled(kernel)
        for at, (value, kind) in enumerate(zip(given[:count], kernel.types, strict=True)):
            compiled.set_arg(at, self._argument(value, kind))
        total = tuple(group * thread for group, thread in zip(groups, threads, strict=True))
        self.cl.enqueue_nd_range_kernel(self.queue, compiled, total, tuple(threads))
        self.queue.finish()

    def _compiled(self, kernel: Kernel) -> Any:
        if kernel.name not in self.built:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's remarks on unused names
                program = self.cl.Program(self.context, kernel.source).build(self.options)
            self.built[kernel.name] = getattr(program, kernel.name)
        return self.built[kernel.name]

    def _argument(self, value: Any, kind: str) -> Any:
        """A pointer of TVM's as shared memory, a number as what the kernel declares."""
        if value is None or isinstance(value, ctypes.c_void_p):
            address = getattr(value, "value", None)
            if not address:
                return None
            start = (ctypes.c_char * 1).from_address(address)
            return self.cl.SVM(np.ctypeslib.as_array(start))
        return np.dtype(kind).type(value)
