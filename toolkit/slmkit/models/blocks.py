"""Blocks that several architectures share: attention with grouped kv heads, gated mlp."""

from __future__ import annotations

from slmkit.models.spec import Spec
from slmkit.ops import Ops, Projection, V


def attention(o: Ops[V], spec: Spec, x: V, layer: int) -> V:
    """Grouped-query attention with rope, optional biases and q/k norm. (T, D) -> (T, D)"""
    at = f"model.layers.{layer}.self_attn"
    q_width, kv_width = spec.heads * spec.head_width, spec.kv_heads * spec.head_width
    widths = {"q_proj": q_width, "k_proj": kv_width, "v_proj": kv_width}
    q, k, v = o.linears(
        x, [Projection(f"{at}.{name}", width, spec.qkv_bias) for name, width in widths.items()]
    )
    q, k, v = o.split_heads(q, spec.heads), *(o.split_heads(y, spec.kv_heads) for y in (k, v))
    if spec.qk_norm:
        q = o.rms_norm(q, f"{at}.q_norm", spec.eps)
        k = o.rms_norm(k, f"{at}.k_norm", spec.eps)
    mixed = o.rotary_attention(q, k, v, layer, spec.rope, spec.attention(layer))
    return o.tap(o.linear(mixed, f"{at}.o_proj", spec.width, spec.output_bias), at)


def gated_mlp(o: Ops[V], spec: Spec, x: V, layer: int) -> V:
    """SwiGLU feed-forward: down(silu(gate(x)) * up(x)). (T, D) -> (T, D)"""
    at = f"model.layers.{layer}.mlp"
    gate, up = o.linears(
        x,
        [
            Projection(f"{at}.{name}", spec.feed_forward, spec.mlp_bias)
            for name in ("gate_proj", "up_proj")
        ],
    )
    down = o.linear(o.mul(o.silu(gate), up), f"{at}.down_proj", spec.width, spec.mlp_bias)
    return o.tap(down, at)
