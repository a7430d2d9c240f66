"""The states of layers that scan: TVM's recurrent state, and the kernels through which it is kept.

TVM holds one list of states for each layer, of the same sizes in all of them, for every sequence.
Here each lies flat, in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import relax, tirx
from tvm.script import tirx as T

from slmkit.backend.interface import Model
from slmkit_mlc.contract import CREATE, RECURRENT, STATE_SIZES
from slmkit_mlc.sizes import state_layers

Expr = Any
FLOAT = "float32"


@dataclass(frozen=True)
class Kept:
    """One state of every layer that has states."""

    number: int
    kind: str  # as in ``slmkit.interpreters.recorder.State``
    size: int  # numbers


def states_of(model: Model) -> tuple[Kept, ...]:
    """What each layer with states keeps, in TVM's order."""
    first = state_layers(model)[:1]
    return tuple(
        Kept(number, state.kind, prod(state.shape))
        for number, state in enumerate(each for each in model.states if each.layer in first)
    )


def add_states(bb: relax.BlockBuilder, model: Model) -> None:
    """Write the function that makes the states: how many sequences, how many steps to go back."""
    sizes = [tirx.Var(name, "int64") for name in STATE_SIZES]
    given = [
        relax.Var(f"{name}_", relax.ShapeType([size]))
        for name, size in zip(STATE_SIZES, sizes, strict=True)
    ]
    kept = states_of(model)
    with bb.function(CREATE[RECURRENT], given):
        begin = [bb.emit(relax.op.zeros((each.size,), FLOAT)) for each in kept]
        states = relax.call_pure_packed(
            "vm.builtin.rnn_state_create",
            relax.prim_value(len(state_layers(model))),
            *(relax.prim_value(size) for size in sizes),
            _movers(bb, kept, "get"),
            _movers(bb, kept, "set"),
            relax.Tuple(begin),
            ty_args=relax.AnyType(),
        )
        bb.emit_func_output(bb.emit(states))


def _movers(bb: relax.BlockBuilder, kept: Sequence[Kept], way: str) -> Any:
    """The kernels that TVM's runtime calls, one for each state, under their names."""
    named = {f"rnn_state_{way}_{each.kind}": mover(each.size, way == "set") for each in kept}
    return relax.Tuple(
        [
            bb.add_func(kernel.with_attr("global_symbol", name), name)
            for name, kernel in named.items()
        ]
    )


def mover(size: int, into: bool) -> Any:
    """The states of some sequences, [sequences, size], out of the storage of all; or ``into`` it,
    as those of the next step."""

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
                if into:
                    storage[slots[s], (steps[s] + 1) % history, i] = state[s, i]
                else:
                    state[s, i] = storage[slots[s], steps[s], i]

    return move


class States:
    """The recurrent states inside of one function of a program."""

    def __init__(self, bb: relax.BlockBuilder, model: Model, states: Expr) -> None:
        self.bb, self.expr = bb, states
        self.layers = state_layers(model)
        self.kept = {each.kind: each for each in states_of(model)}

    def through(
        self, layer: int, kind: str, kernel: Any, given: Sequence[Expr], output: Any, count: Any
    ) -> Expr:
        """Tokens out of a kernel that takes a layer's state of ``count`` sequences and gives the
        next one; ``output`` is the type of the tokens."""
        kept, layer = self.kept[kind], self.layers.index(layer)
        place = relax.prim_value(layer), relax.prim_value(kept.number)
        form = relax.TensorType((count, kept.size), FLOAT)
        read = relax.call_dps_packed("vm.builtin.rnn_state_get", [self.expr, *place], out_ty=form)
        state = self.bb.emit(read)
        own = self.bb.add_func(kernel.without_attr("global_symbol"), kind)
        both = self.bb.emit(relax.call_tir(own, [*given, state], [output, form]))
        after = self.bb.emit(relax.TupleGetItem(both, 1))
        self.expr = self.bb.emit(
            relax.call_pure_packed(
                "vm.builtin.rnn_state_set", self.expr, *place, after, ty_args=relax.AnyType()
            )
        )
        return self.bb.emit(relax.TupleGetItem(both, 0))
