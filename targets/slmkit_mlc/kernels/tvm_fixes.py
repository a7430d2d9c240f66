"""Two kernels of TVM's KV cache that are replaced, because they are wrong (0.27.0.post1).

``merge_state``: TVM's threads write the new weight of a row while others of the same row may not
have read the old one. On a GPU whose threads run in step that goes well; where they do not (CPU
OpenCL), a second chunk of a prompt comes out wrong. Ours waits before it writes.

The CPU's prefill with a sliding window: a key outside of the window leaves the running maximum
unset, so a row that begins with one computes with what lay in memory.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.script import tirx as T

from slmkit.backend.interface import Spec


def merge_state(spec: Spec, dtype: str) -> Any:
    """Joins two attentions over different keys. V (T, H, d) and S (T, H), log2 of the sums of
    exponents, are replaced by the joint ones; a block of threads for each row and head."""
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


def with_maximum_kept(function: Any) -> Any:
    """TVM's CPU prefill, whose masked keys keep the running maximum as it was."""

    def kept(branch: Any) -> Any:
        if not _sets_maximum(branch) or branch.else_case is None:
            return branch
        known = branch.then_case.value.a  # max(m_val[0], S_val[0])
        keep = tirx.BufferStore(branch.then_case.buffer, known, branch.then_case.indices)
        masked = tirx.SeqStmt([branch.else_case, keep])
        return tirx.IfThenElse(branch.condition, branch.then_case, masked)

    body = tvm_ffi.structural_map(function.body, (tirx.IfThenElse, kept))
    return function.with_body(body)


def _sets_maximum(branch: Any) -> bool:
    stored = branch.then_case
    return isinstance(stored, tirx.BufferStore) and isinstance(stored.value, tirx.Max)
