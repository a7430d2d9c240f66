"""What MLC's engine does to logits before it picks a token: biases, penalties, masks, softmax.

The names, inputs and effects are mlc-llm's (``attach_logit_processor``, ``attach_softmax_with_
temperature``); lengths are symbolic but for the vocabulary.
"""

from __future__ import annotations

from typing import Any

from tvm import relax, tirx
from tvm.script import tirx as T

from slmkit_mlc.lowering.program import Program

THREADS = 256  # of a block: what every GPU here has
LEAST = 1e-6  # a temperature below it picks the best token
LOWEST = -3.4028234663852886e38  # of float32: a masked token


def add_logit_functions(bb: relax.BlockBuilder, program: Program) -> None:
    """All functions of logits that the engine checks for, and the embeddings' buffer."""
    vocabulary = program.spec.vocabulary
    for name, function in (
        ("apply_logit_bias_inplace", _bias(vocabulary)),
        ("apply_penalty_inplace", _penalty(vocabulary)),
        ("apply_bitmask_inplace", _bitmask(vocabulary)),
    ):
        bb.add_func(function.with_attr("global_symbol", name), name)
    _softmax(bb, vocabulary)
    _buffer(bb, program)


def _bias(vocabulary: int) -> Any:
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


def _penalty(vocabulary: int) -> Any:
    """Presence and frequency are subtracted; repetition divides what is positive, and multiplies
    what is negative. ``places``: of each token its row of ``sequences`` and ``penalties``."""

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
                    logits[sequences[places[at]], tokens[at]] = _punished(
                        logits[sequences[places[at]], tokens[at]],
                        penalties[places[at], 0]
                        + counts[at].astype("float32") * penalties[places[at], 1],
                        penalties[places[at], 2],
                    )

    return apply_penalty


def _punished(logit: Any, subtracted: Any, repetition: Any) -> Any:
    left = logit - subtracted
    return tirx.if_then_else(left < 0, left * repetition, left / repetition)


def _bitmask(vocabulary: int) -> Any:
    """Bit ``token % 32`` of word ``token // 32`` allows a token."""
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
                        T.float32(LOWEST),
                    )

    return apply_bitmask


def _softmax(bb: relax.BlockBuilder, vocabulary: int) -> None:
    """softmax((logits - best) / temperature): [b, 1, V], [b] -> [b, 1, V]"""
    batch = tirx.Var("batch_size", "int64")
    logits = relax.Var("logits", relax.TensorType((batch, 1, vocabulary), "float32"))
    temperature = relax.Var("temperature", relax.TensorType((batch,), "float32"))
    ops = relax.op
    with bb.function("softmax_with_temperature", [logits, temperature]):
        with bb.dataflow():
            least = ops.maximum(temperature, relax.const(LEAST, "float32"))
            divisor = bb.emit(ops.reshape(bb.emit(least), (batch, 1, 1)))
            best = bb.emit(ops.max(logits, axis=-1, keepdims=True))
            below = bb.emit(ops.divide(bb.emit(ops.subtract(logits, best)), divisor))
            output = bb.emit_output(ops.nn.softmax(below, axis=-1))
        bb.emit_func_output(output)


def _buffer(bb: relax.BlockBuilder, program: Program) -> None:
    """Room for the embeddings of one prefill chunk, on the device."""
    shape = relax.ShapeExpr([program.limits.prefill, program.spec.width])
    with bb.function("alloc_embedding_tensor", []):
        room = relax.op.builtin.alloc_tensor(shape, program.dtype, runtime_device_index=0)
        bb.emit_func_output(bb.emit(room))
