"""Attention with a soft cap: TVM's kernels know none, so it is put where they keep a score.

Their scores are in units of log2 (they say exp2 for exp). In all of them (0.27.0.post1) the whole
score of a query and a key is stored once, before the mask, and read from there.
"""

from __future__ import annotations

import math
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad

from slmkit.errors import BackendError
from slmkit_mlc.kernels.dense import constant

# Buffers that a whole score is stored in, and what it is read from or made of there.
SCORES = {
    "S_smem": "S_local",  # GPU, a chunk: out of a thread's registers
    "S_local": "t0",  # GPU, single tokens: what the threads have summed up
    "S_val": "S_val",  # CPU: the sum, times the scale
    "attention_score": "result",  # CPU, a chunk among itself
}


def with_soft_cap(function: Any, cap: float) -> Any:
    """A kernel whose scores s become cap * tanh(s / cap). Raises BackendError if it has none."""
    found = 0

    def capped(store: Any) -> Any:
        nonlocal found
        if not _stores_score(store):
            return store
        found += 1
        return tirx.BufferStore(store.buffer, _bent(store.value, cap), store.indices)

    body = tvm_ffi.structural_map(function.body, (tirx.BufferStore, capped))
    if not found:
        raise BackendError(
            f"TVM's kernel {function.attrs['global_symbol']} keeps its scores elsewhere",
            "the version of TVM may be another: see slmkit doctor",
        )
    return function.with_body(body)


def _stores_score(store: Any) -> bool:
    source = SCORES.get(store.buffer.name)
    if source is None:
        return False
    if source == "S_val" or source == "result":  # times the scale; the sum itself is an addition
        return isinstance(store.value, tirx.Mul) and source in _read(store.value)
    return isinstance(store.value, TensorLoad) and store.value.source.name == source


def _read(value: Any) -> set[str]:
    """Names of the buffers that an expression reads."""
    names: set[str] = set()

    def see(load: Any) -> None:
        names.add(load.source.name)

    tvm_ffi.structural_walk(value, (TensorLoad, see))
    return names


def _bent(score: Any, cap: float) -> Any:
    """tanh as 1 - 2 / (exp(2 x) + 1), in units of log2."""
    unit = cap * math.log2(math.e)
    power = tirx.exp2(score * constant(2 / cap))
    return constant(unit) * (constant(1) - constant(2) / (power + constant(1)))
