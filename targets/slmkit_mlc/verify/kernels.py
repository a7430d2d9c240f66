"""Check every kernel of a library against the same function on this machine's CPU.

The kernels run on an OpenCL runtime, launched by the library's own host code, on the numbers of
real steps: a chunk, a ragged chunk, single tokens, several sequences, a fork. After a call, every
buffer is compared with the result of TVM's LLVM code of the same function, which does not use the
GPU's schedule. Kernels of the KV cache are compared with those that TVM has for CPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import tirx

from slmkit.errors import BackendError
from slmkit.snr import EXACT_DB, snr_db
from slmkit_mlc.compiler.pipeline import SCHEDULED
from slmkit_mlc.gpus import Gpu
from slmkit_mlc.kernels.cpu_schedules import tile_product
from slmkit_mlc.lowering.definition import Definition
from slmkit_mlc.lowering.program import Writer
from slmkit_mlc.verify.cpu_build import CpuBuild
from slmkit_mlc.verify.host_code import HostCode
from slmkit_mlc.verify.logits import compare_logit_functions
from slmkit_mlc.verify.machine import Machine, cpu_target
from slmkit_mlc.verify.steps import cache_tokens, run_all_functions

Array = NDArray[Any]
MAX_CALLS = 2  # calls of a function that are compared: with the shapes of its first uses
BLOCK = 1 << 20  # bytes compared at a time
FLOOR = 50.0  # dB: float16's rounding is below it


@dataclass
class Comparison:
    """Agreement of a kernel with its function on the CPU, over all compared calls."""

    calls: int = 0
    worst_db: float = EXACT_DB

    def add(self, before: list[Array], expected: list[Array], got: list[Array]) -> None:
        """Compare the buffers of one call where either of the two changed them."""
        self.calls += 1
        for old, wanted, actual in zip(before, expected, got, strict=True):
            if _equal_bytes(old, wanted) and _equal_bytes(old, actual):
                continue  # a weight: masks of it would be as large again
            changed = ~(_same(old, wanted) & _same(old, actual))
            self.worst_db = min(self.worst_db, agreement(wanted[changed], actual[changed]))


def agreement(expected: Array, got: Array) -> float:
    """Signal-to-noise ratio in dB; EXACT_DB for equal arrays, -inf for infinities or NaN."""
    if _same(expected, got).all():
        return EXACT_DB
    if not (np.isfinite(expected).all() and np.isfinite(got).all()):
        return -np.inf
    return snr_db(expected, got)


def _same(one: Array, other: Array) -> Any:
    """Where numbers are equal, or both NaN (as memory that neither wrote may be)."""
    same = one == other
    return same | (np.isnan(one) & np.isnan(other)) if one.dtype.kind == "f" else same


def _equal_bytes(one: Array, other: Array) -> bool:
    """Whether two arrays of one shape hold the same bytes."""
    left, right = (np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in (one, other))
    return all(
        np.array_equal(left[at : at + BLOCK], right[at : at + BLOCK])
        for at in range(0, len(left), BLOCK)
    )


@dataclass
class Checker:
    """Compares kernels with their functions while TVM's virtual machine runs a program."""

    functions: dict[str, Any] = field(default_factory=dict)  # PrimFuncs before scheduling
    compiled: dict[str, Any] = field(default_factory=dict)  # those for this CPU
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    inputs: list[Any] = field(default_factory=list)  # of the current call, copied

    def observe(self, mod: Any) -> None:
        """Record every function of a module that is not yet scheduled."""
        for global_var, function in mod.functions_items():
            if isinstance(function, tirx.PrimFunc) and SCHEDULED not in function.attrs:
                self.functions.setdefault(global_var.name_hint, function)

    def instrument(self, _: Any, name: str, before: bool, __: Any, *args: Any) -> None:
        """Copy a call's arguments before it, compare after it; called by the virtual machine."""
        if name not in self.functions or self._done(name):
            return
        if before:
            self.inputs = _copies(args)
        else:
            self._compare(name, self.inputs, _buffers(args))

    def wrap(self, name: str, kernel: Callable[..., None]) -> Callable[..., None]:
        """A function that calls a kernel of the KV cache and compares its first calls."""

        def call(*args: Any) -> None:
            wanted = name in self.functions and not self._done(name)
            inputs = _copies(args) if wanted else []
            kernel(*args)
            if wanted:
                self._compare(name, inputs, _buffers(args))

        return call

    def _done(self, name: str) -> bool:
        return name in self.comparisons and self.comparisons[name].calls >= MAX_CALLS

    def _compare(self, name: str, inputs: list[Any], got: list[Array]) -> None:
        """Run the function on the CPU and compare its buffers with those of the kernel."""
        function, count = self._compiled(name), len(self.functions[name].params)
        args = inputs[:count]  # without the workspaces of the scheduled kernel
        before = [buffer.copy() for buffer in _buffers(args)]
        function(*args)
        expected = _buffers(args)
        comparison = self.comparisons.setdefault(name, Comparison())
        comparison.add(before, expected, got[: len(expected)])

    def _compiled(self, name: str) -> Any:
        if name not in self.compiled:
            function = tile_product(self.functions[name])
            mod = tvm.IRModule({name: function.with_attr("global_symbol", name)})
            self.compiled[name] = tvm.compile(mod, cpu_target())[name]
        return self.compiled[name]


def check_kernels(
    checker: Checker,
    definition: Definition,
    gpu: Gpu,
    code: HostCode,
    library: Path | None,
    params: Path,
) -> tuple[dict[str, Any], CpuBuild]:
    """Execute and compare the kernels of a library, whose functions the ``checker`` has observed.

    Returns the number of kernels, of those executed and of functions compared, the worst of them in
    dB, and the names of kernels that were not executed; and the build that ran them. Raises
    BackendError below FLOOR.
    """
    build, machine = checked_build(checker, definition, code, library, params)
    comparisons = checker.comparisons
    run_all_functions(machine, definition)
    metal = gpu.target["kind"] == "metal"
    for name, expected, got in compare_logit_functions(machine, definition, metal):
        comparison = comparisons.setdefault(name, Comparison())
        comparison.calls += 1
        comparison.worst_db = min(comparison.worst_db, agreement(expected, got))
    worst = min(comparisons, key=lambda name: comparisons[name].worst_db)
    worst_db = comparisons[worst].worst_db
    if not worst_db >= FLOOR:
        raise BackendError(
            f"the kernel {worst} of {gpu.name} computes something else than its function: "
            f"{worst_db:.1f} dB",
            "please report this; gpus in the recipe leaves a GPU out",
        )
    found = {
        "kernels": len(build.kernels),
        "executed": len(build.executed),
        "compared": len(comparisons),
        "worst": worst,
        "worst_db": round(worst_db, 1),
        "runtime": build.device.name,
        "not_executed": sorted(set(build.kernels) - build.executed),
    }
    return found, build


def checked_build(
    checker: Checker, definition: Definition, code: HostCode, library: Path | None, params: Path
) -> tuple[CpuBuild, Machine]:
    """A build of a library's kernels, and a machine in which the ``checker`` compares each of them
    while it runs."""
    cpu_module = Writer(definition.program(definition.dtype)).module(cpu_target(), (), [])
    cpu_functions = {var.name_hint: function for var, function in cpu_module.functions_items()}
    for name in code.hooked:
        checker.functions.pop(name, None)
        for cpu_name in (name, f"{name}_cpu", name.replace("_sliding", "_cpu_sliding")):
            if cpu_name in cpu_functions:
                checker.functions[name] = cpu_functions[cpu_name]
                break
    build = CpuBuild(definition, code, library, checker.wrap)
    machine = Machine(build.module, definition, params, tokens=cache_tokens(definition))
    machine.vm.set_instrument(checker.instrument)
    return build, machine


def _is_tensor(value: Any) -> bool:
    return isinstance(value, tvm.runtime.Tensor)


def _copies(args: Sequence[Any]) -> list[Any]:
    """Arguments of a call with every tensor copied."""
    return [tvm.runtime.tensor(np.from_dlpack(arg)) if _is_tensor(arg) else arg for arg in args]


def _buffers(args: Sequence[Any]) -> list[Array]:
    """The tensors among the arguments of a call, as arrays over the same memory."""
    return [np.from_dlpack(arg) for arg in args if _is_tensor(arg)]
