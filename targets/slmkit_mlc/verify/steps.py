"""A run of every function of a library on random tokens, so that its kernels see real numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm

from slmkit_mlc.contract import KV, PAGE
from slmkit_mlc.lowering.definition import Definition
from slmkit_mlc.sizes import cache_layer_kinds
from slmkit_mlc.verify.machine import Machine

SEED = 7
TEMPERATURE = 0.7


def cache_tokens(definition: Definition) -> int:
    """Capacity in tokens of the KV cache: for the chunks, and a page of its own per sequence."""
    return 4 * definition.limits.prefill + 8 * PAGE


def run_all_functions(machine: Machine, definition: Definition) -> None:
    """Run a chunk, a ragged chunk, tokens, a fork, two sequences at once; read the cache back."""
    spec, chunk = definition.spec, definition.limits.prefill
    random = np.random.default_rng(SEED)

    def ids(count: int) -> Any:
        return random.integers(0, spec.vocabulary, count)

    machine.call("prefill", ids(chunk))
    machine.call("prefill", ids(min(chunk, chunk // 2 + 1)))
    logits = machine.call("decode", ids(1))[0]
    machine.update_states("fork_sequence", 0, 1, -1)  # sequence 1 is a copy of sequence 0
    machine.call("batch_decode", ids(2), (1, 1))
    machine.reset()
    machine.update_states("add_sequence", 1)
    lengths = (max(1, chunk // 2), max(1, chunk // 4))
    ends = machine.tensor(np.cumsum(lengths).astype(np.int32) - 1)
    machine.call("batch_prefill", ids(sum(lengths)), lengths, ends)
    machine.reset()
    machine.call("batch_verify", ids(max(1, chunk // 8)))
    machine.vm["softmax_with_temperature"](
        machine.tensor(logits), machine.tensor(np.full(1, TEMPERATURE, np.float32))
    )
    if KV in machine.states and "mha_sliding" not in cache_layer_kinds(definition.model):
        _read_cache(machine, definition)  # TVM cannot read a cache with sliding layers


def _read_cache(machine: Machine, definition: Definition) -> None:
    """Read keys and values of sequence 0 out of the KV cache, by TVM's debugging function."""
    spec, length = definition.spec, max(1, definition.limits.prefill // 8)
    layers = len(cache_layer_kinds(definition.model))
    shape = (layers, length, spec.kv_heads, spec.head_width)
    keys, values = (tvm.runtime.tensor(np.zeros(shape, definition.dtype)) for _ in range(2))
    get_kv = tvm.get_global_func("vm.builtin.attention_kv_cache_debug_get_kv")
    get_kv(machine.states[KV], 0, 0, length, keys, values)
