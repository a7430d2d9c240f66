"""Kernel that splits the fused q, k and v and applies RoPE to q and k with the model's frequencies.

TVM's KV cache calls it before every attention. The frequencies come from the spec, with any scaling
of the checkpoint already applied, as in every backend. The cache passes them in the argument in
which TVM's own kernel expects the extension factors of longrope.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from slmkit.backend.interface import Spec
from slmkit.ops import Rope


def split_rotary(spec: Spec, rope: Rope, dtype: str) -> Any:
    """A PrimFunc: qkv (T, H + 2G, d), positions (T,) -> q (T, H, d), k (T, G, d), v (T, G, d).

    The rotation is computed in float32. Of each head, the first 2 * len(rope.frequencies) numbers
    are rotated, the others copied. Names inside the PrimFunc become names in the compiled library.
    """
    heads, kv_heads, width = spec.heads, spec.kv_heads, spec.head_width
    half = len(rope.frequencies)
    magnitude = tirx.const(rope.magnitude, "float32")

    def rotate(x: Any, token: Any, head: Any, at: Any, position: Any, frequencies: Any) -> Any:
        angle = position.astype("float32") * frequencies[at % half]
        value = x[token, head, at].astype("float32")
        partner = tirx.if_then_else(
            at < half, -x[token, head, at + half], x[token, head, at - half]
        ).astype("float32")
        return ((tirx.cos(angle) * value + tirx.sin(angle) * partner) * magnitude).astype(dtype)

    @T.prim_func(s_tir=True)
    def rotary(
        var_qkv: T.handle,
        var_positions: T.handle,
        var_q: T.handle,
        var_k: T.handle,
        var_v: T.handle,
        frequencies: T.Buffer((half,), "float32"),
    ):
        T.func_attr({"op_pattern": 8, "tirx.noalias": True})
        tokens = T.int32()
        offset = T.int32()
        qkv = T.match_buffer(var_qkv, (tokens, heads + 2 * kv_heads, width), dtype)
        positions = T.match_buffer(var_positions, (tokens,), "int32", elem_offset=offset)
        q = T.match_buffer(var_q, (tokens, heads, width), dtype)
        k = T.match_buffer(var_k, (tokens, kv_heads, width), dtype)
        v = T.match_buffer(var_v, (tokens, kv_heads, width), dtype)
        for iters in T.grid(tokens, heads + 2 * kv_heads, width):
            with T.sblock("rotary"):
                s, h, d = T.axis.remap("SSS", iters)
                if h < heads:
                    q[s, h, d] = T.if_then_else(
                        d < 2 * half,
                        rotate(qkv, s, h, d, positions[s], frequencies),
                        qkv[s, h, d],
                    )
                elif h < heads + kv_heads:
                    k[s, h - heads, d] = T.if_then_else(
                        d < 2 * half,
                        rotate(qkv, s, h, d, positions[s], frequencies),
                        qkv[s, h, d],
                    )
                else:
                    v[s, h - (heads + kv_heads), d] = qkv[s, h, d]

    return rotary
