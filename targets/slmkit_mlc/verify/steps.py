"""Real steps through every function of a library, so that its kernels run on real numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm

from slmkit_mlc.contract import KV, PAGE
from slmkit_mlc.lowering.definition import Definition
from slmkit_mlc.sizes import cache_layers
from slmkit_mlc.verify.machine import Machine

SEED = 7
TEMPERATURE = 0.7


def room_for(definition: Definition) -> int:
    """Tokens that the cache must have room for: chunks, and a page of its own for each sequence."""
    return 4 * definition.limits.prefill + 8 * PAGE


def drive(machine: Machine, definition: Definition) -> None:
    """A chunk, a ragged chunk, tokens, two sequences at once, a fork, a look into the cache."""
    spec, chunk = definition.spec, definition.limits.prefill
    random = np.random.default_rng(SEED)

    def ids(count: int) -> Any:
        return random.integers(0, spec.vocabulary, count)

    machine.call("prefill", ids(chunk))
    machine.call("prefill", ids(min(chunk, chunk // 2 + 1)))
    logits = machine.call("decode", ids(1))[0]
    machine.tell("fork_sequence", 0, 1, -1)  # begins like the first, and goes on by itself
    machine.call("batch_decode", ids(2), (1, 1))
    machine.reset()
    machine.tell("add_sequence", 1)
    both = (max(1, chunk // 2), max(1, chunk // 4))
    ends = machine.tensor(np.cumsum(both).astype(np.int32) - 1)
    machine.call("batch_prefill", ids(sum(both)), both, ends)
    machine.reset()
    machine.call("batch_verify", ids(max(1, chunk // 8)))
    machine.machine["softmax_with_temperature"](
        machine.tensor(logits), machine.tensor(np.full(1, TEMPERATURE, np.float32))
    )
    if KV in machine.kept and "mha_sliding" not in cache_layers(definition.model):
        _look(machine, definition)  # TVM looks into no cache that slides


def _look(machine: Machine, definition: Definition) -> None:
    """Keys and values of the cache, as a debugger asks for them."""
    spec, length = definition.spec, max(1, definition.limits.prefill // 8)
    shape = (len(cache_layers(definition.model)), length, spec.kv_heads, spec.head_width)
    keys, values = (tvm.runtime.tensor(np.zeros(shape, definition.dtype)) for _ in range(2))
    look = tvm.get_global_func("vm.builtin.attention_kv_cache_debug_get_kv")
    look(machine.kept[KV], 0, 0, length, keys, values)
