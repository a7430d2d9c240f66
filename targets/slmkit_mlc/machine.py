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
from slmkit_mlc.contract import CREATE_CACHE, PAGE
from slmkit_mlc.definition import Definition
from slmkit_mlc.pipeline import for_cpu
from slmkit_mlc.program import PROOF, Writer

Tensor = Any


def processor() -> Any:
    """TVM's target for the processor that this runs on."""
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    # of LLVM's levels, 3 takes three times as long to compile as 1, and runs no faster
    return tvm.target.Target({"kind": "llvm", "mcpu": cpu, "opt-level": 1})


def on_processor(definition: Definition, dtype: str, functions: tuple[str, ...] = PROOF) -> Any:
    """The program compiled for this processor. -> an executable, and the names of its taps"""
    from slmkit_mlc.compile import build

    target, writer = processor(), Writer(definition.program(dtype))
    mod = writer.module(target, functions, [])
    return build(mod, target, for_cpu(), definition, {}), writer.taps


class Machine:
    """Calls functions of an executable; sequence 0 is in the cache, which has room for the
    definition's context, or for ``tokens``."""

    def __init__(
        self, executable: Any, definition: Definition, params: Path, device: Any = None,
        tokens: int | None = None,
    ) -> None:  # fmt: skip
        self.device = tvm.cpu() if device is None else device
        self.machine = relax.VirtualMachine(executable, self.device)
        self.definition = definition
        self.params = load_params(params, definition, self.device)
        limits = definition.limits
        sizes = (limits.batch, tokens or limits.context, limits.prefill, PAGE, 0)
        self.cache = self.machine[CREATE_CACHE](*(tvm_ffi.Shape((size,)) for size in sizes))
        self.reset()

    def reset(self) -> None:
        """Forget every sequence; begin number 0."""
        _builtin("kv_state_clear")(self.cache)
        _builtin("kv_state_add_sequence")(self.cache, 0)

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
        _builtin("kv_state_begin_forward")(self.cache, sequences, tvm_ffi.Shape(lengths))
        found = self.machine[function](embeddings, *more, self.cache, self.params)
        _builtin("kv_state_end_forward")(self.cache)
        return [each.numpy() for at, each in enumerate(found) if at != 1]


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
