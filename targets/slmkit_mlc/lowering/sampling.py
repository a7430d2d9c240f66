"""Sampling of tokens on the GPU, which MLC's engine uses on Metal (mlc-llm's ``attach_sampler``).

On OpenCL the engine samples on the CPU and looks up none of these functions. Shapes: b sequences, V
vocabulary. Names inside the PrimFuncs become names in the compiled library.
"""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx
from tvm.script import tirx as T

from slmkit_mlc.lowering.logits import THREADS
from slmkit_mlc.lowering.program import Program

Expr = Any


def add_samplers(bb: relax.BlockBuilder, program: Program) -> None:
    """Emit the four sampling functions that the engine checks for on Metal."""
    batch, samples, positions = (
        tirx.Var(name, "int64") for name in ("batch_size", "num_samples", "num_positions")
    )
    rows = (batch, program.spec.vocabulary)
    _add_argsort(bb, rows)
    _add_multinomial(bb, rows, samples)
    _add_top_p(bb, rows, samples)
    _add_take_probs(bb, rows, samples, positions)


def _add_argsort(bb: relax.BlockBuilder, rows: tuple[Any, int]) -> None:
    """Emit a sort: probabilities [b, V] -> those in descending order, and their token ids."""
    probs = relax.Var("probs", relax.TensorType(rows, "float32"))
    with bb.function("argsort_probs", [probs]):
        with bb.dataflow():
            ids = bb.emit(relax.op.argsort(probs, descending=True, dtype="int32"))
            values = bb.emit_te(_take_sorted, probs, ids, primfunc_name_hint="take_sorted_probs")
            output = bb.emit_output(relax.Tuple([values, ids]))
        bb.emit_func_output(output)


def _take_sorted(values: Any, ids: Any) -> Any:
    """values[row, ids[row, i]]"""
    return te.compute(values.shape, lambda row, at: values[row, ids[row, at]], name="sorted")


def _add_multinomial(bb: relax.BlockBuilder, rows: tuple[Any, int], samples: Any) -> None:
    """Emit sampling by a uniform number of [0, 1): a token id of row ``sample_indices[n]``."""
    probs = relax.Var("probs", relax.TensorType(rows, "float32"))
    inputs = [probs, *_sample_inputs(samples)]
    with bb.function("multinomial_from_uniform", inputs):
        with bb.dataflow():
            kernel = bb.add_func(_multinomial_kernel(rows[1]), "pick_by_uniform")
            tokens = relax.call_tir(kernel, inputs, relax.TensorType((samples,), "int32"))
            output = bb.emit_output(tokens)
        bb.emit_func_output(output)


def _multinomial_kernel(vocabulary: int) -> Any:
    """The first token whose cumulative probability exceeds the uniform number.

    Each thread adds up a span of the probabilities; thread 0 finds the span, then the token in it.
    TVM's own kernel scans within groups of 32 threads without a barrier, which is correct only if
    exactly 32 threads run in lockstep (0.27.0.post1).
    """
    span = -(-vocabulary // THREADS)

    @T.prim_func(private=True, s_tir=True)
    def walk(
        var_probs: T.handle, var_uniform: T.handle, var_places: T.handle, var_tokens: T.handle
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        batch = T.int32()
        samples = T.int32()
        probs = T.match_buffer(var_probs, (batch, vocabulary), "float32")
        uniform = T.match_buffer(var_uniform, (samples,), "float32")
        places = T.match_buffer(var_places, (samples,), "int32")
        tokens = T.match_buffer(var_tokens, (samples,), "int32")
        for i in T.thread_binding(samples, thread="blockIdx.x"):
            for t in T.thread_binding(THREADS, thread="threadIdx.x"):
                with T.sblock("walk"):
                    sums = T.sblock_alloc_buffer((THREADS,), "float32", scope="shared")
                    own = T.sblock_alloc_buffer((1,), "float32", scope="local")
                    more = T.sblock_alloc_buffer((1,), "float32", scope="local")
                    at = T.sblock_alloc_buffer((1,), "int32", scope="local")
                    own[0] = T.float32(0)
                    for k in range(span):
                        if t * span + k < vocabulary:
                            own[0] = own[0] + probs[places[i], t * span + k]
                    sums[t] = own[0]
                    T.tvm_storage_sync("shared")
                    if t == 0:
                        at[0] = 0
                        own[0] = T.float32(0)
                        for k in range(THREADS - 1):  # until one passes the number
                            more[0] = sums[k]
                            if at[0] == k:
                                if own[0] + more[0] <= uniform[i]:
                                    own[0] = own[0] + more[0]
                                    at[0] = k + 1
                        at[0] = T.min(at[0] * span, vocabulary - 1)
                        own[0] = own[0] + probs[places[i], at[0]]
                        while T.And(at[0] < vocabulary - 1, own[0] <= uniform[i]):
                            at[0] = at[0] + 1
                            own[0] = own[0] + probs[places[i], at[0]]
                        tokens[i] = at[0]

    return walk


def _add_top_p(bb: relax.BlockBuilder, rows: tuple[Any, int], samples: Any) -> None:
    """Emit sampling among the most probable tokens whose probabilities add up to ``top_p``."""
    probs = relax.Var("sorted_probs", relax.TensorType(rows, "float32"))
    ids = relax.Var("sorted_indices", relax.TensorType(rows, "int32"))
    uniform, sample_rows = _sample_inputs(samples)
    top_p = relax.Var("top_p", relax.TensorType((rows[0],), "float32"))
    inputs = [probs, ids, uniform, sample_rows, top_p]
    with bb.function("sample_with_top_p", inputs):
        with bb.dataflow():
            kernel = bb.add_func(_top_p_kernel(rows[1]), "pick_within_top_p")
            tokens = relax.call_tir(kernel, inputs, relax.TensorType((samples,), "int32"))
            output = bb.emit_output(tokens)
        bb.emit_func_output(output)


def _top_p_kernel(vocabulary: int) -> Any:
    """Sample within ``top_p``: one thread per sample adds up the sorted probabilities.

    A single thread is fast enough, because few tokens have most of the probability.
    """

    @T.prim_func(private=True, s_tir=True)
    def pick(
        var_probs: T.handle,
        var_ids: T.handle,
        var_uniform: T.handle,
        var_places: T.handle,
        var_top_p: T.handle,
        var_tokens: T.handle,
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        batch = T.int32()
        samples = T.int32()
        probs = T.match_buffer(var_probs, (batch, vocabulary), "float32")
        ids = T.match_buffer(var_ids, (batch, vocabulary), "int32")
        uniform = T.match_buffer(var_uniform, (samples,), "float32")
        places = T.match_buffer(var_places, (samples,), "int32")
        top_p = T.match_buffer(var_top_p, (batch,), "float32")
        tokens = T.match_buffer(var_tokens, (samples,), "int32")
        for i in T.thread_binding(samples, thread="blockIdx.x"):
            for _ in T.thread_binding(1, thread="threadIdx.x"):
                with T.sblock("pick"):
                    kept = T.sblock_alloc_buffer((1,), "int32", scope="local")
                    mass = T.sblock_alloc_buffer((1,), "float32", scope="local")
                    at = T.sblock_alloc_buffer((1,), "int32", scope="local")
                    passed = T.sblock_alloc_buffer((1,), "float32", scope="local")
                    kept[0] = 0
                    mass[0] = T.float32(0)
                    while T.And(kept[0] < vocabulary, mass[0] < top_p[places[i]]):
                        mass[0] = mass[0] + probs[places[i], kept[0]]
                        kept[0] = kept[0] + 1
                    at[0] = 0
                    passed[0] = probs[places[i], 0]
                    while T.And(at[0] < kept[0] - 1, passed[0] <= uniform[i] * mass[0]):
                        at[0] = at[0] + 1
                        passed[0] = passed[0] + probs[places[i], at[0]]
                    tokens[i] = ids[places[i], at[0]]

    return pick


def _add_take_probs(
    bb: relax.BlockBuilder, rows: tuple[Any, int], samples: Any, positions: Any
) -> None:
    """Emit the look-up of probabilities: of sampled tokens, and of ranks with their token ids.

    A rank is an offset into the sorted probabilities [b, V], flattened.
    """
    probs = relax.Var("unsorted_probs", relax.TensorType(rows, "float32"))
    ids = relax.Var("sorted_indices", relax.TensorType(rows, "int32"))
    sample_rows = relax.Var("sample_indices", relax.TensorType((samples,), "int32"))
    sampled = relax.Var("sampling_results", relax.TensorType((samples,), "int32"))
    ranks = relax.Var("top_prob_offsets", relax.TensorType((positions,), "int32"))
    inputs = [probs, ids, sample_rows, sampled, ranks]
    outputs = [
        relax.TensorType((samples,), "float32"),
        relax.TensorType((positions,), "float32"),
        relax.TensorType((positions,), "int32"),
    ]
    with bb.function("sampler_take_probs", inputs):
        with bb.dataflow():
            kernel = bb.add_func(_take_probs_kernel(rows[1]), "take_probs")
            output = bb.emit_output(relax.call_tir(kernel, inputs, outputs))
        bb.emit_func_output(output)


def _take_probs_kernel(vocabulary: int) -> Any:
    """One loop over ``ranks`` (values and token ids) and then over the sampled tokens (values)."""

    @T.prim_func(private=True, s_tir=True)
    def take_probs(
        var_probs: T.handle,
        var_ids: T.handle,
        var_places: T.handle,
        var_sampled: T.handle,
        var_ranks: T.handle,
        var_values: T.handle,
        var_top: T.handle,
        var_tokens: T.handle,
    ):
        T.func_attr({"tirx.noalias": True})
        batch = T.int32()
        samples = T.int32()
        positions = T.int32()
        probs = T.match_buffer(var_probs, (batch, vocabulary), "float32")
        ids = T.match_buffer(var_ids, (batch, vocabulary), "int32")
        places = T.match_buffer(var_places, (samples,), "int32")
        sampled = T.match_buffer(var_sampled, (samples,), "int32")
        ranks = T.match_buffer(var_ranks, (positions,), "int32")
        values = T.match_buffer(var_values, (samples,), "float32")
        top = T.match_buffer(var_top, (positions,), "float32")
        tokens = T.match_buffer(var_tokens, (positions,), "int32")
        for i in range(positions + samples):
            with T.sblock("take"):
                at = T.axis.spatial(positions + samples, i)
                if at < positions:
                    tokens[at] = ids[ranks[at] // vocabulary, ranks[at] % vocabulary]
                    top[at] = probs[
                        ranks[at] // vocabulary,
                        ids[ranks[at] // vocabulary, ranks[at] % vocabulary],
                    ]
                else:
                    values[at - positions] = probs[places[at - positions], sampled[at - positions]]

    return take_probs


def _sample_inputs(samples: Any) -> tuple[Expr, Expr]:
    """A uniform number of [0, 1) for each sample, and its row of the probabilities."""
    return (
        relax.Var("uniform_samples", relax.TensorType((samples,), "float32")),
        relax.Var("sample_indices", relax.TensorType((samples,), "int32")),
    )
