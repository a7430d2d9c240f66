"""A compiled program in TVM's virtual machine, with its parameters and one sequence's KV cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import relax

from slmkit.ops import Floats
from slmkit_mlc.contract import CREATE, KV, PAGE, RECURRENT
from slmkit_mlc.kernels.cpu_schedules import tiles
from slmkit_mlc.lowering.definition import Definition
from slmkit_mlc.lowering.program import PROOF, Writer
from slmkit_mlc.sizes import kept_by

Tensor = Any
STEPS_BACK = 1  # of the states that are held: the last


def processor() -> Any:
    """TVM's target for the processor that this runs on."""
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    # of LLVM's levels, 3 takes three times as long to compile as 1, and runs no faster
    return tvm.target.Target({"kind": "llvm", "mcpu": cpu, "opt-level": 1})


def on_processor(definition: Definition, dtype: str, functions: tuple[str, ...] = PROOF) -> Any:
    """The program compiled for this processor. -> an executable, and the names of its taps"""
    from slmkit_mlc.compiler.compile import build

    target, writer = processor(), Writer(definition.program(dtype))
    mod = writer.module(target, functions, [])
    return build(mod, target, tiles(definition.layout), definition, {}), writer.taps


class Machine:
    """Calls functions of an executable; sequence 0 is in the cache, which has room for the
    definition's context, or for ``tokens``."""

    def __init__(
        self,
        executable: Any,
        definition: Definition,
        params: Path,
        device: Any = None,
        tokens: int | None = None,
    ) -> None:
        self.device = tvm.cpu() if device is None else device
        self.machine = relax.VirtualMachine(executable, self.device)
        self.definition = definition
        self.params = load_params(params, definition, self.device)
        limits = definition.limits
        sizes = {
            KV: (limits.batch, tokens or limits.context, limits.prefill, PAGE, 0),
            RECURRENT: (limits.batch, STEPS_BACK),
        }
        self.kept = {
            kind: self.machine[CREATE[kind]](*(tvm_ffi.Shape((size,)) for size in sizes[kind]))
            for kind in kept_by(definition.model)
        }
        self.reset()

    def reset(self) -> None:
        """Forget every sequence; begin number 0."""
        self.tell("clear")
        self.tell("add_sequence", 0)

    def tell(self, what: str, *given: Any) -> None:
        """Let everything that sequences keep begin, forget or copy one: TVM's kv_state_*."""
        for each in self.kept.values():
            _builtin(f"kv_state_{what}")(each, *given)

    def tensor(self, numbers: NDArray[Any]) -> Tensor:
        """Numbers on the device."""
        return tvm.runtime.tensor(numbers, device=self.device)

    def kernel(self, name: str) -> Any:
        """A kernel that MLC's engine calls by name."""
        return self.machine.module.get_function(name, query_imports=True)

    def embed(self, ids: NDArray[np.int64], shape: tuple[int, int]) -> Tensor:
        """Rows of the embedding, [b, T, D]."""
        rows = self.machine["embed"](self.tensor(ids.astype(np.int32)), self.params)
        width = self.definition.spec.width
        return _builtin("reshape")(rows, tvm_ffi.Shape((*shape, width)))

    def call(
        self, function: str, ids: NDArray[np.int64], lengths: tuple[int, ...] = (), *more: Tensor
    ) -> list[Floats]:
        """Read tokens of sequences 0, 1, ... (all of them of 0 without ``lengths``): the function's
        numbers, logits first."""
        lengths = lengths or (len(ids),)
        shape = (len(lengths), 1) if function == "batch_decode" else (1, len(ids))
        embeddings = self.embed(ids, shape)
        sequences = tvm_ffi.Shape(tuple(range(len(lengths))))
        self.tell("begin_forward", sequences, tvm_ffi.Shape(lengths))
        found = self.machine[function](embeddings, *more, *self.kept.values(), self.params)
        self.tell("end_forward")
        return [found[0].numpy(), *(each.numpy() for each in found[1 + len(self.kept) :])]


def load_params(folder: Path, definition: Definition, device: Any) -> Any:
    """The parameters of ``tensor-cache.json``, as MLC's engine loads them."""
    kind, number = device.dlpack_device_type(), device.index
    _builtin("tensor_cache.load")(str(folder), kind, number)
    names = [param.name for param in definition.table.params]
    params = _builtin("param_array_from_cache_by_name")(names)
    _builtin("tensor_cache.clear")()
    return params


def _builtin(name: str) -> Any:
    return tvm.get_global_func(f"vm.builtin.{name}")
