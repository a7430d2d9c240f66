"""Functions that change logits before sampling: biases, penalties, bitmasks, softmax.

MLC's engine calls them. Names, inputs and effects are those of mlc-llm (its passes
``attach_logit_processor`` and ``attach_softmax_with_temperature``); all lengths except the
vocabulary are symbolic. Names inside the PrimFuncs become names in the compiled library.
"""

from __future__ import annotations

from typing import Any

from tvm import relax, tirx
from tvm.script import tirx as T

from slmkit_mlc.lowering.program import Program

THREADS = 256  # of a block: every GPU of gpus.json has as many
MIN_TEMPERATURE = 1e-6  # lower temperatures are raised to it: the best token is sampled
MASKED_LOGIT = -3.4028234663852886e38  # the lowest float32


def add_logit_functions(bb: relax.BlockBuilder, program: Program) -> None:
    """Emit the logit functions that the engine checks for, and ``alloc_embedding_tensor``."""
    vocabulary = program.spec.vocabulary
    for name, function in (
        ("apply_logit_bias_inplace", _bias_kernel(vocabulary)),
        ("apply_penalty_inplace", _penalty_kernel(vocabulary)),
        ("apply_bitmask_inplace", _bitmask_kernel(vocabulary)),
    ):
        bb.add_func(function.with_attr("global_symbol", name), name)
    _add_softmax(bb, vocabulary)
    _add_embedding_buffer(bb, program)


def _bias_kernel(vocabulary: int) -> Any:
    """logits[sequences[i], tokens[i]] += bias[i]"""

    @T.prim_func(s_tir=True)
    def apply_logit_bias(
        var_logits: T.handle, var_sequences: T.handle, var_tokens: T.handle, var_bias: T.handle
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        batch = T.int32()
        count = T.int32()
        logits = T.match_buffer(var_logits, (batch, vocabulary), "float32")
        sequences = T.match_buffer(var_sequences, (count,), "int32")
        tokens = T.match_buffer(var_tokens, (count,), "int32")
        bias = T.match_buffer(var_bias, (count,), "float32")
        for i in T.thread_binding((count + THREADS - 1) // THREADS, thread="blockIdx.x"):
            for j in T.thread_binding(THREADS, thread="threadIdx.x"):
                with T.sblock("bias"):
                    at = T.axis.spatial(count, i * THREADS + j)
                    T.where(i * THREADS + j < count)
                    logits[sequences[at], tokens[at]] = logits[sequences[at], tokens[at]] + bias[at]

    return apply_logit_bias


def _penalty_kernel(vocabulary: int) -> Any:
    """Penalize tokens that occurred: ``penalties`` are presence, frequency, repetition (rows, 3).

    ``places[i]`` is the row of ``penalties`` and ``sequences`` of token i, ``sequences`` the row of
    the logits, ``counts[i]`` how often the token occurred.
    """

    @T.prim_func(s_tir=True)
    def apply_penalty(
        var_logits: T.handle,
        var_sequences: T.handle,
        var_places: T.handle,
        var_tokens: T.handle,
        var_counts: T.handle,
        var_penalties: T.handle,
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        batch = T.int32()
        rows = T.int32()
        count = T.int32()
        logits = T.match_buffer(var_logits, (batch, vocabulary), "float32")
        sequences = T.match_buffer(var_sequences, (rows,), "int32")
        places = T.match_buffer(var_places, (count,), "int32")
        tokens = T.match_buffer(var_tokens, (count,), "int32")
        counts = T.match_buffer(var_counts, (count,), "int32")
        penalties = T.match_buffer(var_penalties, (rows, 3), "float32")
        for i in T.thread_binding((count + THREADS - 1) // THREADS, thread="blockIdx.x"):
            for j in T.thread_binding(THREADS, thread="threadIdx.x"):
                with T.sblock("penalty"):
                    at = T.axis.spatial(count, i * THREADS + j)
                    T.where(i * THREADS + j < count)
                    logits[sequences[places[at]], tokens[at]] = _penalized(
                        logits[sequences[places[at]], tokens[at]],
                        penalties[places[at], 0]
                        + counts[at].astype("float32") * penalties[places[at], 1],
                        penalties[places[at], 2],
                    )

    return apply_penalty


def _penalized(logit: Any, subtrahend: Any, repetition: Any) -> Any:
    """Subtract, then divide a positive difference by ``repetition`` or multiply a negative one."""
    difference = logit - subtrahend
    return tirx.if_then_else(difference < 0, difference * repetition, difference / repetition)


def _bitmask_kernel(vocabulary: int) -> Any:
    """Set logits to MASKED_LOGIT where bit ``token % 32`` of word ``token // 32`` is 0."""
    words = -(-vocabulary // 32)

    @T.prim_func(s_tir=True)
    def apply_bitmask(var_logits: T.handle, var_sequences: T.handle, var_mask: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        batch = T.int32()
        count = T.int32()
        logits = T.match_buffer(var_logits, (batch, vocabulary), "float32")
        sequences = T.match_buffer(var_sequences, (count,), "int32")
        mask = T.match_buffer(var_mask, (batch, words), "int32")
        for i in T.thread_binding(
            (count * vocabulary + THREADS - 1) // THREADS, thread="blockIdx.x"
        ):
            for j in T.thread_binding(THREADS, thread="threadIdx.x"):
                with T.sblock("mask"):
                    at = T.axis.spatial(count, (i * THREADS + j) // vocabulary)
                    token = T.axis.spatial(vocabulary, (i * THREADS + j) % vocabulary)
                    T.where(i * THREADS + j < count * vocabulary)
                    logits[sequences[at], token] = T.if_then_else(
                        (mask[sequences[at], token // 32] >> (token % 32)) & 1 == 1,
                        logits[sequences[at], token],
                        T.float32(MASKED_LOGIT),
                    )

    return apply_bitmask


def _add_softmax(bb: relax.BlockBuilder, vocabulary: int) -> None:
    """Emit softmax((logits - max) / temperature): [b, 1, V], [b] -> [b, 1, V]"""
    batch = tirx.Var("batch_size", "int64")
    logits = relax.Var("logits", relax.TensorType((batch, 1, vocabulary), "float32"))
    temperature = relax.Var("temperature", relax.TensorType((batch,), "float32"))
    ops = relax.op
    with bb.function("softmax_with_temperature", [logits, temperature]):
        with bb.dataflow():
            clipped = bb.emit(ops.maximum(temperature, relax.const(MIN_TEMPERATURE, "float32")))
            divisor = bb.emit(ops.reshape(clipped, (batch, 1, 1)))
            best = bb.emit(ops.max(logits, axis=-1, keepdims=True))
            difference = bb.emit(ops.subtract(logits, best))
            quotient = bb.emit(ops.divide(difference, divisor))
            output = bb.emit_output(ops.nn.softmax(quotient, axis=-1))
        bb.emit_func_output(output)


def _add_embedding_buffer(bb: relax.BlockBuilder, program: Program) -> None:
    """Emit a function that allocates the embeddings of one prefill chunk on the device."""
    shape = relax.ShapeExpr([program.limits.prefill, program.spec.width])
    with bb.function("alloc_embedding_tensor", []):
        buffer = relax.op.builtin.alloc_tensor(shape, program.dtype, runtime_device_index=0)
        bb.emit_func_output(bb.emit(buffer))
