"""The Relax program: every function of the library, emitted by one interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import relax, tirx

from slmkit.backend.interface import Model, Spec
from slmkit_mlc.contract import COPIES, KV, PARAMS, RECURRENT, STATE_INPUTS
from slmkit_mlc.kernels import dense
from slmkit_mlc.lowering.kv_cache import add_cache_constructor
from slmkit_mlc.lowering.ops import MlcOps, Step
from slmkit_mlc.lowering.recurrent_state import add_state_constructor
from slmkit_mlc.params import Table
from slmkit_mlc.sizes import Limits, state_kinds

Expr = Any
PARITY_FUNCTIONS = (
    "batch_verify",
    "decode",
)  # functions that parity runs: they return every token's logits


@dataclass(frozen=True)
class Program:
    """A model, its parameters and sizes: the input of ``Writer``."""

    model: Model
    table: Table
    dtype: str  # of activations
    limits: Limits
    debug: bool = False  # return tapped intermediates too

    @property
    def spec(self) -> Spec:
        """The model's configuration."""
        return self.model.spec


class Writer:
    """Emits the functions of one program into one module; each method emits its namesake."""

    def __init__(self, program: Program) -> None:
        self.program, self.bb = program, relax.BlockBuilder()
        self.taps: list[str] = []  # names of the additional outputs of a debug program

    def module(
        self, target: Any, functions: Iterable[str], more: Iterable[Callable[..., Any]]
    ) -> Any:
        """The module of the named functions, ``embed``, and the states' constructors.

        ``more``: functions (builder, program) that emit additional ones.
        """
        with target:
            self.embed()
            for name in functions:
                getattr(self, name)()
            self.state_constructors(target)
            for emit in more:
                emit(self.bb, self.program)
        mod = self.bb.get()
        for name, original in COPIES.items():
            if original in functions:
                copy = relax.utils.copy_with_new_vars(mod[original])
                mod[name] = copy.with_attr("global_symbol", name)
        return mod

    def state_constructors(self, target: Any) -> None:
        """Emit constructors of the KV cache and the recurrent state, if the model has them."""
        model, dtype = self.program.model, self.program.dtype
        kinds = state_kinds(model)
        if KV in kinds:
            add_cache_constructor(self.bb, model, dtype, target)
        if RECURRENT in kinds:
            add_state_constructor(self.bb, model)

    def embed(self) -> None:
        """Token ids [T] -> rows of the embedding [T, D]."""
        ids = relax.Var("input_ids", relax.TensorType((_length("seq_len"),), "int32"))
        table = self.program.table
        matrix = table.matrices[table.embedding]

        def body(weights: Any) -> Expr:
            stored = [weights(param.name) for param in matrix.params]
            take_rows = partial(dense.take_rows, matrix, self.program.dtype)
            return self.bb.emit_te(take_rows, ids, stored, primfunc_name_hint="dequantize_take")

        self._function("embed", [ids], body)

    def prefill(self) -> None:
        """A chunk of one sequence -> the last token's logits."""

        def select(x: Expr) -> Expr:
            return self.bb.emit_te(dense.last_token, x, primfunc_name_hint="last_token")

        self._step("prefill", (1, _length("seq_len")), select)

    def decode(self) -> None:
        """One token of one sequence -> its logits."""
        self._step("decode", (1, 1))

    def batch_prefill(self) -> None:
        """Chunks of several sequences, one after the other -> logits at ``logit_positions``."""
        positions = relax.Var(
            "logit_positions", relax.TensorType((_length("batch_size"),), "int32")
        )

        def select(x: Expr) -> Expr:
            return self.bb.emit_te(
                dense.take_positions, x, positions, primfunc_name_hint="positions_taken"
            )

        self._step("batch_prefill", (1, _length("seq_len")), select, positions)

    def batch_decode(self) -> None:
        """One token of each of several sequences -> their logits."""
        self._step("batch_decode", (_length("batch_size"), 1))

    def batch_verify(self) -> None:
        """Chunks of several sequences, one after the other -> every token's logits."""
        self._step("batch_verify", (1, _length("seq_len")))

    def _step(
        self,
        name: str,
        sizes: tuple[Any, Any],
        select: Callable[[Expr], Expr] | None = None,
        ends: Expr | None = None,
    ) -> None:
        """Emit a forward pass: embeddings [*sizes, D] and states -> logits and next states.

        ``ends``: a further input, the index of each sequence's last token, if rows hold several.
        """
        program = self.program
        row_type = relax.TensorType((*sizes, program.spec.width), program.dtype)
        embeddings = relax.Var("input_embed", row_type)
        states = {
            kind: relax.Var(STATE_INPUTS[kind], relax.AnyType())
            for kind in state_kinds(program.model)
        }

        def body(weights: Any) -> Expr:
            step = Step(embeddings, states, weights, select, ends)
            ops = MlcOps(self.bb, program.model, program.table, program.dtype, step, program.debug)
            logits = program.model.run(ops).tensor
            self.taps = list(ops.taps)
            return relax.Tuple([logits, *ops.next_states, *ops.taps.values()])

        inputs = [embeddings] if ends is None else [embeddings, ends]
        self._function(name, [*inputs, *states.values()], body)

    def _function(self, name: str, inputs: list[Expr], body: Callable[..., Expr]) -> None:
        """Emit a function of some inputs and the tuple of all parameters.

        ``body`` returns the output; it gets a function that returns a parameter by name.
        """
        params = self.program.table.params
        types = [relax.TensorType(param.shape, param.dtype) for param in params]
        packed = relax.Var(PARAMS, relax.TupleType(types))
        indices = {param.name: index for index, param in enumerate(params)}
        unpacked: dict[str, Expr] = {}

        def weights(param: str) -> Expr:
            if param not in unpacked:
                unpacked[param] = self.bb.emit(relax.TupleGetItem(packed, indices[param]))
            return unpacked[param]

        with self.bb.function(name, [*inputs, packed]):
            with self.bb.dataflow():
                output = self.bb.emit_output(body(weights))
            self.bb.emit_func_output(output)
        global_var = self.bb.get().get_global_var(name)
        self.bb.update_func(global_var, self.bb.get()[name].with_attr("num_input", len(inputs)))


def _length(name: str) -> Any:
    """A symbolic length."""
    return tirx.Var(name, "int64")
