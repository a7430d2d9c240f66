"""Replacements for two kernels of TVM's KV cache that compute wrong results (TVM 0.27.0.post1).

``merge_state``: TVM's threads write the new log-sum of a row while other threads of the same row
may not have read the old one. On a GPU whose threads run in lockstep the result is right; where
they do not (OpenCL on a CPU), the second chunk of a prompt comes out wrong. The replacement has a
barrier before the write.

CPU prefill with a sliding window: a key outside the window leaves the running maximum unset, so a
row that begins with such a key computes with uninitialized memory.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.script import tirx as T

from slmkit.backend.interface import Spec


def merge_state(spec: Spec, dtype: str) -> Any:
    """Merge two attention results over different keys, in place, into the first.

    V (T, H, d) are the outputs, S (T, H) the log2 of the sums of exponents. Each row and head is
    one block of threads, each number of a head one thread.
    """
    heads, width = spec.heads, spec.head_width

    @T.prim_func(s_tir=True)
    def merge(v: T.handle, s: T.handle, v_other: T.handle, s_other: T.handle):
        T.func_attr({"tirx.is_scheduled": True})
        tokens = T.int32()
        ours = T.match_buffer(v, (tokens, heads, width), dtype)
        sums = T.match_buffer(s, (tokens, heads), "float32")
        others = T.match_buffer(v_other, (tokens, heads, width), dtype)
        other_sums = T.match_buffer(s_other, (tokens, heads), "float32")
        for bx in T.thread_binding(tokens, thread="blockIdx.x"):
            for by in T.thread_binding(heads, thread="blockIdx.y"):
                for tx in T.thread_binding(width, thread="threadIdx.x"):
                    with T.sblock("merge"):
                        most = T.sblock_alloc_buffer((1,), "float32", scope="local")
                        one = T.sblock_alloc_buffer((1,), "float32", scope="local")
                        other = T.sblock_alloc_buffer((1,), "float32", scope="local")
                        most[0] = T.max(sums[bx, by], other_sums[bx, by])
                        one[0] = T.exp2(sums[bx, by] - most[0])
                        other[0] = T.exp2(other_sums[bx, by] - most[0])
                        T.tvm_storage_sync("shared")  # every thread has read the sums
                        ours[bx, by, tx] = (
                            (ours[bx, by, tx] * one[0] + others[bx, by, tx] * other[0])
                            / (one[0] + other[0])
                        ).astype(dtype)
                        if tx == 0:
                            sums[bx, by] = most[0] + T.log2(one[0] + other[0])

    return merge


def fix_masked_maximum(function: Any) -> Any:
    """Make TVM's CPU prefill carry the running maximum over a masked key."""

    def fix_branch(branch: Any) -> Any:
        if not _updates_maximum(branch) or branch.else_case is None:
            return branch
        previous = branch.then_case.value.a  # of max(m_val[0], S_val[0])
        carry = tirx.BufferStore(branch.then_case.buffer, previous, branch.then_case.indices)
        masked_case = tirx.SeqStmt([branch.else_case, carry])
        return tirx.IfThenElse(branch.condition, branch.then_case, masked_case)

    body = tvm_ffi.structural_map(function.body, (tirx.IfThenElse, fix_branch))
    return function.with_body(body)


def _updates_maximum(branch: Any) -> bool:
    """Whether the branch stores a maximum of two values."""
    store = branch.then_case
    return isinstance(store, tirx.BufferStore) and isinstance(store.value, tirx.Max)
