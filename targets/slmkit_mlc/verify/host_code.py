"""A GPU's module with code for this machine: its processor's host code, its kernels in OpenCL.

Kernels have the library's own schedules. Those of the KV cache and of recurrent states are called
through global functions, ``HOOK`` and their name, which whoever runs the code registers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

from slmkit_mlc.compiler.compile import gpu_module, link, lower_for_gpu
from slmkit_mlc.compiler.pipeline import RULES, Observer
from slmkit_mlc.contract import CONSTRUCTORS
from slmkit_mlc.gpus import Gpu
from slmkit_mlc.lowering.definition import Definition
from slmkit_mlc.verify.opencl import Kernel

GENERATOR = "target.build.opencl"  # TVM's global function that generates OpenCL code
SECTION = "// Function: "  # precedes each kernel in the generated code
HOOK = "slmkit.watched."  # prefix of global functions that call the kernels of caches and states
MACHINE, CODE, KERNELS, BINARIES = "host.vm", "host.ll", "kernels.json", "kernels.npz"


@dataclass(frozen=True)
class HostCode:
    """``module``: of TVM's virtual machine; ``kernels``: all kernels by name; ``hooked``: symbols
    of the kernels that are called by a hook, by name; ``binaries``: kernels that were built for
    this processor."""

    module: Any
    kernels: Mapping[str, Kernel]
    hooked: Mapping[str, str]
    binaries: Mapping[str, bytes] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write everything into an existing folder, for ``load_host_code``."""
        self.module.write_to_file(str(folder / MACHINE), "")
        self.module.imports[0].write_to_file(str(folder / CODE), "ll")
        kernels = [asdict(kernel) for kernel in self.kernels.values()]
        text = json.dumps({"kernels": kernels, "hooked": self.hooked})
        (folder / KERNELS).write_text(text, encoding="utf-8")
        arrays = {name: np.frombuffer(each, np.uint8) for name, each in self.binaries.items()}
        np.savez(folder / BINARIES, **arrays)  # type: ignore[arg-type]


def load_host_code(folder: Path) -> HostCode:
    """Read the code that ``HostCode.save`` wrote on a machine with the same processor."""
    load = "ffi.Module.load_from_file."
    module = tvm.get_global_func(f"{load}relax.VMExecutable")(str(folder / MACHINE))
    module.import_module(tvm.get_global_func(f"{load}ll")(str(folder / CODE), "ll"))
    values = json.loads((folder / KERNELS).read_text(encoding="utf-8"))
    kernels = [
        Kernel(each["name"], each["source"], tuple(each["types"]), tuple(each["launch"]))
        for each in values["kernels"]
    ]
    with np.load(folder / BINARIES, allow_pickle=False) as arrays:
        binaries = {name: each.tobytes() for name, each in arrays.items()}
    return HostCode(module, {each.name: each for each in kernels}, values["hooked"], binaries)


def compile_host_code(
    definition: Definition,
    gpu: Gpu,
    written: Any = None,
    lowered: Any = None,
    observe: Observer | None = None,
    observe_scheduled: Observer | None = None,
) -> HostCode:
    """Compile a GPU's module for this machine.

    ``written``: what ``gpu_module`` has written; ``lowered``: the module as it was lowered for a
    library, if the GPU's own language is OpenCL. Else it is lowered here, and ``observe`` and
    ``observe_scheduled`` get it before and after it is scheduled.
    """
    local = local_gpu(gpu)
    mod = gpu_module(definition, gpu) if written is None else written
    if lowered is None:
        lowered = lower_for_gpu(mod, local, definition, {}, observe, observe_scheduled)
    lowered, hooked = _hook_kernels(lowered, _names_by_symbol(mod))
    with _capture_kernels() as kernels:
        executable = link(lowered, local.code_target, asserts=False)
    return HostCode(executable.jit(), kernels, hooked)


def local_gpu(gpu: Gpu) -> Gpu:
    """A GPU with the same schedules, OpenCL as its language, and this machine as its host."""
    schedules = {rule: gpu.schedule.get(rule, gpu.target) for rule in RULES}
    target = gpu.target if gpu.is_opencl else gpu.schedule["Matmul"]
    return replace(gpu, target={**target, "host": {"kind": "llvm"}}, schedule=schedules)


def _names_by_symbol(written: Any) -> dict[str, str]:
    """The names of a written module's functions by their symbols, which TVM renames them to."""
    return {
        str(function.attrs["global_symbol"]): global_var.name_hint
        for global_var, function in written.functions_items()
        if function.attrs and "global_symbol" in function.attrs
    }


def _hook_kernels(lowered: Any, names: Mapping[str, str]) -> tuple[Any, dict[str, str]]:
    """The module whose KV cache and recurrent state call hooks; the symbols behind them.

    ``names``: of functions before they were lowered, by their symbols.
    """
    mod = tvm.IRModule(dict(lowered.functions_items()), attrs=lowered.attrs)
    replacer = _KernelReplacer(mod, names)
    for global_var in mod.get_global_vars():
        if global_var.name_hint in CONSTRUCTORS.values():
            mod[global_var] = replacer.visit_expr(mod[global_var])
    return mod, replacer.symbols


@relax.expr_functor.mutator
class _KernelReplacer(relax.PyExprMutator):  # type: ignore[misc]
    """Replace each reference to a kernel by a global function named HOOK + its name."""

    def __init__(self, mod: Any, names: Mapping[str, str]) -> None:
        super().__init__(mod)
        self.mod, self.written = mod, names
        self.symbols: dict[str, str] = {}

    def visit_global_var_(self, global_var: Any) -> Any:
        symbol = str(self.mod[global_var].attrs.get("global_symbol") or global_var.name_hint)
        name = self.written.get(symbol, global_var.name_hint)
        self.symbols[name] = symbol
        return relax.ExternFunc(HOOK + name)


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
