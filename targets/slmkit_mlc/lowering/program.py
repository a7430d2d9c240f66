"""The Relax program: every function of the library, written by one interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import relax, tirx

from slmkit.backend.interface import Model, Spec
from slmkit_mlc.contract import ALSO, KV, PARAMS, RECURRENT, VARIABLE
from slmkit_mlc.kernels import dense
from slmkit_mlc.lowering.kv_cache import add_cache
from slmkit_mlc.lowering.ops import MlcOps, Step
from slmkit_mlc.lowering.recurrent_state import add_states
from slmkit_mlc.params import Table
from slmkit_mlc.sizes import Limits, kept_by

Expr = Any
PROOF = ("batch_verify", "decode")  # what parity runs: every token's logits


@dataclass(frozen=True)
class Program:
    """What the functions are written of."""

    model: Model
    table: Table
    dtype: str
    limits: Limits
    debug: bool = False

    @property
    def spec(self) -> Spec:
        """Facts of the architecture."""
        return self.model.spec


class Writer:
    """Writes the functions of one program into one module."""

    def __init__(self, program: Program) -> None:
        self.program, self.bb = program, relax.BlockBuilder()
        self.taps: list[str] = []

    def module(
        self, target: Any, functions: Iterable[str], more: Iterable[Callable[..., Any]]
    ) -> Any:
        """The module; ``more`` are functions that write into the builder too."""
        with target:
            self.embed()
            for name in functions:
                getattr(self, name)()
            self.makers(target)
            for each in more:
                each(self.bb, self.program)
        mod = self.bb.get()
        for name, like in ALSO.items():
            if like in functions:
                copy = relax.utils.copy_with_new_vars(mod[like])
                mod[name] = copy.with_attr("global_symbol", name)
        return mod

    def makers(self, target: Any) -> None:
        """What makes the things that a sequence keeps."""
        model, dtype = self.program.model, self.program.dtype
        kept = kept_by(model)
        if KV in kept:
            add_cache(self.bb, model, dtype, target)
        if RECURRENT in kept:
            add_states(self.bb, model)

    def embed(self) -> None:
        """Token ids [T] to rows [T, D]."""
        ids = relax.Var("input_ids", relax.TensorType((_length("seq_len"),), "int32"))
        table = self.program.table
        matrix = table.matrices[table.embedding]

        def written(weights: Any, _: Any) -> Expr:
            stored = [weights(param.name) for param in matrix.params]
            taken = partial(dense.rows_of, matrix, self.program.dtype)
            return self.bb.emit_te(taken, ids, stored, primfunc_name_hint="dequantize_take")

        self._function("embed", [ids], written)

    def prefill(self) -> None:
        """A chunk of one sequence; the last token's logits."""
        self._step("prefill", (1, _length("seq_len")), self._last)

    def decode(self) -> None:
        """One token of one sequence."""
        self._step("decode", (1, 1))

    def batch_prefill(self) -> None:
        """Chunks of several sequences, one after the other; logits of some positions."""
        positions = relax.Var(
            "logit_positions", relax.TensorType((_length("batch_size"),), "int32")
        )

        def select(x: Expr) -> Expr:
            return self.bb.emit_te(dense.positions_taken, x, positions)

        self._step("batch_prefill", (1, _length("seq_len")), select, positions)

    def batch_decode(self) -> None:
        """One token of each of several sequences."""
        self._step("batch_decode", (_length("batch_size"), 1))

    def batch_verify(self) -> None:
        """Chunks of several sequences; every token's logits."""
        self._step("batch_verify", (1, _length("seq_len")))

    def _last(self, x: Expr) -> Expr:
        return self.bb.emit_te(dense.last_token, x, primfunc_name_hint="last_token")

    def _step(self, name: str, sizes: tuple[Any, Any], select: Any = None, *more: Expr) -> None:
        program = self.program
        kind = relax.TensorType((*sizes, program.spec.width), program.dtype)
        embeddings = relax.Var("input_embed", kind)
        kept = {each: relax.Var(VARIABLE[each], relax.AnyType()) for each in kept_by(program.model)}

        def written(weights: Any, bb: relax.BlockBuilder) -> Expr:
            step = Step(embeddings, kept, weights, select, *more)
            ops = MlcOps(bb, program.model, program.table, program.dtype, step, program.debug)
            logits = program.model.run(ops).tensor
            self.taps = list(ops.taps)
            return relax.Tuple([logits, *ops.kept, *ops.taps.values()])

        self._function(name, [embeddings, *more, *kept.values()], written)

    def _function(self, name: str, given: list[Expr], written: Callable[..., Expr]) -> None:
        """A function of some inputs and all parameters."""
        params = self.program.table.params
        packed = relax.Var(
            PARAMS, relax.TupleType([relax.TensorType(each.shape, each.dtype) for each in params])
        )
        places = {each.name: at for at, each in enumerate(params)}
        taken: dict[str, Expr] = {}

        def weights(param: str) -> Expr:
            if param not in taken:
                taken[param] = self.bb.emit(relax.TupleGetItem(packed, places[param]))
            return taken[param]

        with self.bb.function(name, [*given, packed]):
            with self.bb.dataflow():
                output = self.bb.emit_output(written(weights, self.bb))
            self.bb.emit_func_output(output)
        own = self.bb.get().get_global_var(name)
        self.bb.update_func(own, self.bb.get()[name].with_attr("num_input", len(given)))


def _length(name: str) -> Any:
    return tirx.Var(name, "int64")
