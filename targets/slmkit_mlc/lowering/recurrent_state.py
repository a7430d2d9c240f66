"""Recurrent state of scanning layers: its creation, and kernels that read and update it.

TVM's runtime holds one list of state tensors per layer, of the same sizes in all layers, for every
sequence. Here each state tensor is flat and float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import relax, tirx
from tvm.script import tirx as T

from slmkit.backend.interface import Model
from slmkit_mlc.contract import CONSTRUCTORS, RECURRENT, STATE_SIZES
from slmkit_mlc.sizes import state_layers

Expr = Any
FLOAT = "float32"


@dataclass(frozen=True)
class StateTensor:
    """One state tensor that every scanning layer has."""

    index: int  # in the layer's list
    kind: str  # as in ``slmkit.interpreters.recorder.State``: "conv" or "scan"
    size: int  # numbers


def state_tensors(model: Model) -> tuple[StateTensor, ...]:
    """State tensors of a layer, in TVM's order; those of the first stand for all layers."""
    first_layer = state_layers(model)[:1]
    states = [state for state in model.states if state.layer in first_layer]
    return tuple(
        StateTensor(index, state.kind, prod(state.shape)) for index, state in enumerate(states)
    )


def add_state_constructor(bb: relax.BlockBuilder, model: Model) -> None:
    """Emit the constructor of the recurrent state.

    Its inputs are STATE_SIZES: the number of sequences, and the number of steps to roll back.
    """
    sizes = [tirx.Var(name, "int64") for name in STATE_SIZES]
    params = [
        relax.Var(f"{name}_", relax.ShapeType([size]))
        for name, size in zip(STATE_SIZES, sizes, strict=True)
    ]
    tensors = state_tensors(model)
    with bb.function(CONSTRUCTORS[RECURRENT], params):
        initial = [bb.emit(relax.op.zeros((tensor.size,), FLOAT)) for tensor in tensors]
        state = relax.call_pure_packed(
            "vm.builtin.rnn_state_create",
            relax.prim_value(len(state_layers(model))),
            *(relax.prim_value(size) for size in sizes),
            _copy_kernels(bb, tensors, "get"),
            _copy_kernels(bb, tensors, "set"),
            relax.Tuple(initial),
            ty_args=relax.AnyType(),
        )
        bb.emit_func_output(bb.emit(state))


def _copy_kernels(bb: relax.BlockBuilder, tensors: Sequence[StateTensor], access: str) -> Any:
    """Kernels that TVM's runtime calls to "get" or "set" each state tensor."""
    kernels = []
    for tensor in tensors:
        name = f"rnn_state_{access}_{tensor.kind}"
        kernel = copy_kernel(tensor.size, access == "set").with_attr("global_symbol", name)
        kernels.append(bb.add_func(kernel, name))
    return relax.Tuple(kernels)


def copy_kernel(size: int, store: bool) -> Any:
    """A PrimFunc that copies a state tensor of some sequences, (S, size).

    It copies from the storage of all sequences, (slots, history, size), or with ``store`` to the
    storage, as the state of the next step. Names inside the PrimFunc land in the library.
    """

    @T.prim_func(s_tir=True)
    def move(storage_: T.handle, slots_: T.handle, steps_: T.handle, state_: T.handle):
        T.func_attr({"tirx.noalias": True})
        room, history, sequences = T.int32(), T.int32(), T.int32()
        storage = T.match_buffer(storage_, (room, history, size), FLOAT)
        slots = T.match_buffer(slots_, (sequences,), "int32")
        steps = T.match_buffer(steps_, (sequences,), "int32")
        state = T.match_buffer(state_, (sequences, size), FLOAT)
        for at in T.grid(sequences, size):
            with T.sblock("move"):
                s, i = T.axis.remap("SS", at)
                if store:
                    storage[slots[s], (steps[s] + 1) % history, i] = state[s, i]
                else:
                    state[s, i] = storage[slots[s], steps[s], i]

    return move


class RecurrentState:
    """The recurrent state inside one function of a program; ``expr`` is its current value."""

    def __init__(self, bb: relax.BlockBuilder, model: Model, state: Expr) -> None:
        self.bb, self.expr = bb, state
        self.layers = state_layers(model)
        self.tensors = {tensor.kind: tensor for tensor in state_tensors(model)}

    def call(
        self, layer: int, kind: str, kernel: Any, inputs: Sequence[Expr], output: Any, count: Any
    ) -> Expr:
        """Call a kernel that maps inputs and a layer's state to an output and the next state.

        ``kind`` of state, ``count`` of sequences; ``output`` is the type of the returned tensor.
        """
        tensor = self.tensors[kind]
        place = relax.prim_value(self.layers.index(layer)), relax.prim_value(tensor.index)
        state_type = relax.TensorType((count, tensor.size), FLOAT)
        state = self.bb.emit(
            relax.call_dps_packed(
                "vm.builtin.rnn_state_get", [self.expr, *place], out_ty=state_type
            )
        )
        kernel_var = self.bb.add_func(kernel.without_attr("global_symbol"), kind)
        results = self.bb.emit(relax.call_tir(kernel_var, [*inputs, state], [output, state_type]))
        next_state = self.bb.emit(relax.TupleGetItem(results, 1))
        self.expr = self.bb.emit(
            relax.call_pure_packed(
                "vm.builtin.rnn_state_set", self.expr, *place, next_state, ty_args=relax.AnyType()
            )
        )
        return self.bb.emit(relax.TupleGetItem(results, 0))
