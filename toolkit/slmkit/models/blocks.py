"""Blocks that several architectures share: attention with grouped kv heads, gated mlp."""

from __future__ import annotations

from slmkit.models.spec import Spec
from slmkit.ops import Ops, V


def attention(o: Ops[V], spec: Spec, x: V, layer: int) -> V:
    """Grouped-query attention with rope, optional biases and q/k norm. (T, D) -> (T, D)"""
    at = f"model.layers.{layer}.self_attn"
    q_width, kv_width = spec.heads * spec.head_width, spec.kv_heads * spec.head_width
    q = o.split_heads(o.linear(x, f"{at}.q_proj", q_width, spec.qkv_bias), spec.heads)
    k = o.split_heads(o.linear(x, f"{at}.k_proj", kv_width, spec.qkv_bias), spec.kv_heads)
    v = o.split_heads(o.linear(x, f"{at}.v_proj", kv_width, spec.qkv_bias), spec.kv_heads)
    if spec.qk_norm:
        q = o.rms_norm(q, f"{at}.q_norm", spec.eps)
        k = o.rms_norm(k, f"{at}.k_norm", spec.eps)
    mixed = o.rotary_attention(q, k, v, layer, spec.rope, spec.attention(layer))
    return o.linear(mixed, f"{at}.o_proj", spec.width, spec.output_bias)


def gated_mlp(o: Ops[V], spec: Spec, x: V, layer: int) -> V:
    """SwiGLU feed-forward: down(silu(gate(x)) * up(x)). (T, D) -> (T, D)"""
    at = f"model.layers.{layer}.mlp"
    gate = o.silu(o.linear(x, f"{at}.gate_proj", spec.feed_forward, spec.mlp_bias))
    up = o.linear(x, f"{at}.up_proj", spec.feed_forward, spec.mlp_bias)
    return o.linear(o.mul(gate, up), f"{at}.down_proj", spec.width, spec.mlp_bias)
