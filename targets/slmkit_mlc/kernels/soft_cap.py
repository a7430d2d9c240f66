"""Soft cap of attention scores, inserted into TVM's attention kernels, which have none.

The kernels keep scores in units of log2, because they compute exp2 instead of exp. In all of them
(TVM 0.27.0.post1) the complete score of a query and a key is stored once, before the mask is
applied, and read from there.
"""

from __future__ import annotations

import math
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad

from slmkit.errors import BackendError
from slmkit_mlc.kernels.dense import constant

# Buffer that holds a complete score -> the buffer (or product) that is stored into it.
SCORE_BUFFERS = {
    "S_smem": "S_local",  # GPU, chunk: copied from a thread's registers
    "S_local": "t0",  # GPU, single tokens: the sum over the threads
    "S_val": "S_val",  # CPU: the sum, times the scale
    "attention_score": "result",  # CPU, attention within a chunk
}


def add_soft_cap(function: Any, cap: float) -> Any:
    """Replace each score s of an attention kernel by cap * tanh(s / cap).

    Raises BackendError if the kernel stores no score in a known buffer.
    """
    count = 0

    def cap_store(store: Any) -> Any:
        nonlocal count
        if not _stores_score(store):
            return store
        count += 1
        return tirx.BufferStore(store.buffer, _capped_score(store.value, cap), store.indices)

    body = tvm_ffi.structural_map(function.body, (tirx.BufferStore, cap_store))
    if not count:
        raise BackendError(
            f"TVM's kernel {function.attrs['global_symbol']} keeps its scores elsewhere",
            "the version of TVM may be another: see slmkit doctor",
        )
    return function.with_body(body)


def _stores_score(store: Any) -> bool:
    """Whether a store writes a complete score into one of SCORE_BUFFERS."""
    source = SCORE_BUFFERS.get(store.buffer.name)
    if source is None:
        return False
    if source in ("S_val", "result"):  # the score is the sum times the scale; the sum is an Add
        return isinstance(store.value, tirx.Mul) and source in _buffers_read(store.value)
    return isinstance(store.value, TensorLoad) and store.value.source.name == source


def _buffers_read(value: Any) -> set[str]:
    """Names of the buffers that an expression reads."""
    names: set[str] = set()

    def visit(load: Any) -> None:
        names.add(load.source.name)

    tvm_ffi.structural_walk(value, (TensorLoad, visit))
    return names


def _capped_score(score: Any, cap: float) -> Any:
    """cap * tanh(score / cap) in units of log2, with tanh(x) = 1 - 2 / (exp(2 x) + 1)."""
    unit = cap * math.log2(math.e)
    power = tirx.exp2(score * constant(2 / cap))
    return constant(unit) * (constant(1) - constant(2) / (power + constant(1)))
