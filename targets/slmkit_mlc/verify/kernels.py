"""Every kernel of a library against the same function on this processor.

The kernels run on an OpenCL runtime, launched by the library's own host code, with the numbers of
real steps: a chunk, a ragged chunk, single tokens, several sequences, a fork. What they leave in
every buffer is compared with what TVM's LLVM code of the function leaves there, which knows nothing
of the GPU's schedule. The KV cache's own kernels are compared with those that TVM has for
processors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, tirx

from slmkit.errors import BackendError
from slmkit_mlc.compiler.pipeline import SCHEDULED
from slmkit_mlc.contract import CREATE
from slmkit_mlc.gpus import Gpu, known_gpus
from slmkit_mlc.kernels.cpu_schedules import tiled
from slmkit_mlc.lowering.definition import Definition, read_definition
from slmkit_mlc.lowering.program import Writer
from slmkit_mlc.verify.cpu_build import Twin
from slmkit_mlc.verify.logits import compared_logits
from slmkit_mlc.verify.machine import Machine, processor
from slmkit_mlc.verify.steps import drive, room_for

Array = NDArray[Any]
Report = Callable[[int, int], None]
WATCHED = "slmkit.watched."  # global functions between TVM's KV cache and its kernels
TWICE = 2  # calls of a function that are compared: with the shapes of its first uses
FLOOR = 50.0  # dB: of float16
EXACT = 300.0  # dB of equal numbers


@dataclass
class Comparison:
    """Signal and noise of what a function left in its buffers, over its compared calls."""

    calls: int = 0
    worst_db: float = EXACT

    def add(self, before: list[Array], expected: list[Array], got: list[Array]) -> None:
        """Buffers of one call: whatever one of the two has changed must agree."""
        self.calls += 1
        for old, one, other in zip(before, expected, got, strict=True):
            changed = ~(_same(old, one) & _same(old, other))
            self.worst_db = min(self.worst_db, agreement(one[changed], other[changed]))


def agreement(expected: Array, got: Array) -> float:
    """10 log10(signal / noise); EXACT for equal numbers, minus infinity for any that is none."""
    if _same(expected, got).all():
        return EXACT
    if not (np.isfinite(expected).all() and np.isfinite(got).all()):
        return -np.inf
    noise = np.square(expected.astype(np.float64) - got).sum()
    signal = np.square(expected.astype(np.float64)).sum()
    return float(10 * np.log10(signal / noise)) if signal else -np.inf


def _same(one: Array, other: Array) -> Any:
    """Where numbers are equal, or memory that nobody wrote is."""
    same = one == other
    return same | (np.isnan(one) & np.isnan(other)) if one.dtype.kind == "f" else same


@dataclass
class Checker:
    """Stands between the virtual machine and the kernels of a twin."""

    layout: str  # of the matrices
    plain: dict[str, Any] = field(default_factory=dict)  # functions before they were scheduled
    compiled: dict[str, Any] = field(default_factory=dict)
    found: dict[str, Comparison] = field(default_factory=dict)
    before: list[Any] = field(default_factory=list)

    def look(self, mod: Any) -> None:
        """Keep every kernel as it is before it is scheduled."""
        for own, function in mod.functions_items():
            if isinstance(function, tirx.PrimFunc) and SCHEDULED not in function.attrs:
                self.plain.setdefault(own.name_hint, function)

    def instrument(self, _: Any, name: str, before: bool, __: Any, *given: Any) -> None:
        """Called by the virtual machine around each call of a function."""
        if name not in self.plain or self._enough(name):
            return
        if before:
            self.before = _copies(given)
        else:
            self._compare(name, self.before, _buffers(given))

    def watched(self, name: str, kernel: Callable[..., None]) -> Callable[..., None]:
        """A kernel of the KV cache, compared at each of its first calls."""

        def call(*given: Any) -> None:
            copies = _copies(given)
            kernel(*given)
            if name in self.plain and not self._enough(name):
                self._compare(name, copies, _buffers(given))

        return call

    def _enough(self, name: str) -> bool:
        return name in self.found and self.found[name].calls >= TWICE

    def _compare(self, name: str, given: list[Any], got: list[Array]) -> None:
        function, count = self._function(name), len(self.plain[name].params)
        given = given[:count]  # without the workspaces of the scheduled function
        before = [each.copy() for each in _buffers(given)]
        function(*given)
        expected = _buffers(given)
        self.found.setdefault(name, Comparison()).add(before, expected, got[: len(expected)])

    def _function(self, name: str) -> Any:
        if name not in self.compiled:
            function = tiled(self.plain[name], self.layout).with_attr("global_symbol", name)
            self.compiled[name] = tvm.compile(tvm.IRModule({name: function}), processor())[name]
        return self.compiled[name]


def check_job(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """In a process of its own: kernels in the library, executed, compared; the worst of them."""
    folder = Path(payload["folder"])
    definition, gpu = read_definition(folder), known_gpus()[payload["gpu"]]
    library = folder / payload["library"] if payload["library"] else None
    checker, twin, machine = watched_twin(definition, gpu, library, folder / payload["params"])
    drive(machine, definition)
    for name, expected, got in compared_logits(machine, definition, gpu.target["kind"] == "metal"):
        comparison = checker.found.setdefault(name, Comparison())
        comparison.calls += 1
        comparison.worst_db = min(comparison.worst_db, agreement(expected, got))
    worst = min(checker.found, key=lambda name: checker.found[name].worst_db)
    if not checker.found[worst].worst_db >= FLOOR:
        raise BackendError(
            f"the kernel {worst} of {gpu.name} computes something else than its function: "
            f"{checker.found[worst].worst_db:.1f} dB",
            "please report this; gpus in the recipe leaves a GPU out",
        )
    return {
        "kernels": len(twin.kernels),
        "executed": len(twin.executed),
        "compared": len(checker.found),
        "worst": worst,
        "worst_db": round(checker.found[worst].worst_db, 1),
        "runtime": twin.device.name,
        "not_executed": sorted(set(twin.kernels) - twin.executed),
    }


def watched_twin(
    definition: Definition, gpu: Gpu, library: Path | None, params: Path
) -> tuple[Checker, Twin, Machine]:
    """A twin whose every function is compared while it runs."""
    checker, watch = Checker(definition.layout), _Watch()
    twin = Twin(definition, gpu, library, watch.change, checker.look)
    on_cpu = Writer(definition.program(definition.dtype)).module(processor(), (), [])
    cpu = {own.name_hint: each for own, each in on_cpu.functions_items()}
    module = twin.executable.jit()
    for name, symbol in watch.symbols.items():
        checker.plain.pop(name, None)
        for twin_name in (name, f"{name}_cpu", name.replace("_sliding", "_cpu_sliding")):
            if twin_name in cpu:
                checker.plain[name] = cpu[twin_name]
                break
        kernel = module.get_function(symbol, query_imports=True)
        tvm.register_global_func(WATCHED + name, checker.watched(name, kernel), override=True)
    machine = Machine(module, definition, params, tokens=room_for(definition))
    machine.machine.set_instrument(checker.instrument)
    return checker, twin, machine


class _Watch:
    """Lets the KV cache call our functions, which call its kernels."""

    def __init__(self) -> None:
        self.symbols: dict[str, str] = {}  # of the cache's kernels by name

    def change(self, mod: Any) -> Any:
        """The module, caches and states made of functions outside; the kernels stay, by name."""
        outside = _Outside(mod)
        for own in mod.get_global_vars():
            if own.name_hint in CREATE.values():
                mod[own] = outside.visit_expr(mod[own])
        self.symbols = {name: str(mod[name].attrs["global_symbol"]) for name in outside.names}
        return mod


@relax.expr_functor.mutator
class _Outside(relax.PyExprMutator):  # type: ignore[misc]
    def __init__(self, mod: Any) -> None:
        super().__init__(mod)
        self.names: list[str] = []

    def visit_global_var_(self, own: Any) -> Any:
        self.names.append(own.name_hint)
        return relax.ExternFunc(WATCHED + own.name_hint)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, tvm.runtime.Tensor)


def _copies(given: Sequence[Any]) -> list[Any]:
    return [tvm.runtime.tensor(each.numpy()) if _is_tensor(each) else each for each in given]


def _buffers(given: Sequence[Any]) -> list[Array]:
    return [each.numpy() for each in given if _is_tensor(each)]
