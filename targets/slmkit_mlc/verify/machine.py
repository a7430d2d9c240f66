"""A compiled program in TVM's virtual machine, with its parameters and its sequences' states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import relax

from slmkit.ops import Floats
from slmkit_mlc.contract import CONSTRUCTORS, KV, PAGE, RECURRENT
from slmkit_mlc.kernels.cpu_schedules import TileProducts
from slmkit_mlc.lowering.definition import Definition
from slmkit_mlc.lowering.program import PARITY_FUNCTIONS, Writer
from slmkit_mlc.sizes import state_kinds

Tensor = Any
HISTORY = 1  # recurrent states to hold of each sequence: the last


def cpu_target() -> Any:
    """TVM's target for this machine's CPU."""
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    # LLVM's level 3 takes three times as long to compile as level 1, and its code is no faster.
    # Level 2, free to order sums, computes the dot products of TVM's attention in vectors.
    return tvm.target.Target(
        {"kind": "llvm", "mcpu": cpu, "opt-level": 2, "fast-math-reassoc": True}
    )


def build_for_cpu(
    definition: Definition, dtype: str, functions: tuple[str, ...] = PARITY_FUNCTIONS
) -> Any:
    """Compile the program with activations of ``dtype`` for this machine's CPU.

    Returns an executable of TVM's virtual machine, and the names of the taps that functions return
    (none unless built for debugging).
    """
    from slmkit_mlc.compiler.compile import build

    target, writer = cpu_target(), Writer(definition.program(dtype))
    mod = writer.module(target, functions, [])
    executable = build(mod, target, TileProducts(), definition, {})
    return executable, writer.taps


class Machine:
    """A virtual machine with parameters, KV cache and recurrent state; sequence 0 exists."""

    def __init__(
        self,
        executable: Any,
        definition: Definition,
        params: Path,
        device: Any = None,
        tokens: int | None = None,
    ) -> None:
        """Load the parameters and create empty states.

        ``params``: the folder of tensor-cache.json; ``device``: a TVM device, default the CPU;
        ``tokens``: capacity of the KV cache, default the definition's context length.
        """
        self.device = tvm.cpu() if device is None else device
        self.vm = relax.VirtualMachine(executable, self.device)
        self.definition = definition
        self.params = load_params(params, definition, self.device)
        limits = definition.limits
        sizes = {
            KV: (limits.batch, tokens or limits.context, limits.prefill, PAGE, 0),
            RECURRENT: (limits.batch, HISTORY),
        }
        self.states = {
            kind: self.vm[CONSTRUCTORS[kind]](*(tvm_ffi.Shape((size,)) for size in sizes[kind]))
            for kind in state_kinds(definition.model)
        }
        self.reset()

    def reset(self) -> None:
        """Remove every sequence and add an empty sequence 0."""
        self.update_states("clear")
        self.update_states("add_sequence", 0)

    def update_states(self, operation: str, *args: Any) -> None:
        """Call ``vm.builtin.kv_state_OPERATION`` on the KV cache and the recurrent state.

        Such as "add_sequence", "fork_sequence" or "popn", with their arguments.
        """
        for state in self.states.values():
            _builtin(f"kv_state_{operation}")(state, *args)

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """A copy of an array on the device."""
        return tvm.runtime.tensor(array, device=self.device)

    def kernel(self, name: str) -> Any:
        """A kernel that MLC's engine calls by name."""
        return self.vm.module.get_function(name, query_imports=True)

    def embed(self, ids: NDArray[np.int64], shape: tuple[int, int]) -> Tensor:
        """Embeddings of token ids, [b, T, D]; ``shape`` is (b, T)."""
        rows = self.vm["embed"](self.tensor(ids.astype(np.int32)), self.params)
        width = self.definition.spec.width
        return _builtin("reshape")(rows, tvm_ffi.Shape((*shape, width)))

    def call(
        self, function: str, ids: NDArray[np.int64], lengths: tuple[int, ...] = (), *more: Tensor
    ) -> list[Floats]:
        """Append tokens to sequences 0, 1, ... with one of the library's functions.

        ``lengths``: tokens of each sequence, default all to sequence 0; ``more``: further inputs of
        the function. Returns the logits, then the taps.
        """
        lengths = lengths or (len(ids),)
        shape = (len(lengths), 1) if function == "batch_decode" else (1, len(ids))
        embeddings = self.embed(ids, shape)
        sequences = tvm_ffi.Shape(tuple(range(len(lengths))))
        self.update_states("begin_forward", sequences, tvm_ffi.Shape(lengths))
        outputs = self.vm[function](embeddings, *more, *self.states.values(), self.params)
        self.update_states("end_forward")
        taps = outputs[1 + len(self.states) :]
        return [outputs[0].numpy(), *(tap.numpy() for tap in taps)]


def load_params(folder: Path, definition: Definition, device: Any) -> Any:
    """Load the parameters of a folder's ``tensor-cache.json``, as MLC's engine does."""
    device_type, device_index = device.dlpack_device_type(), device.index
    _builtin("tensor_cache.load")(str(folder), device_type, device_index)
    names = [param.name for param in definition.table.params]
    params = _builtin("param_array_from_cache_by_name")(names)
    _builtin("tensor_cache.clear")()
    return params


def _builtin(name: str) -> Any:
    """A function of TVM's runtime."""
    return tvm.get_global_func(f"vm.builtin.{name}")
