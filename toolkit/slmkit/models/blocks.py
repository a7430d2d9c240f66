"""Blocks that several architectures share: embedding, attention, gated mlp, head."""

from __future__ import annotations

from slmkit.models.spec import Spec
from slmkit.ops import Ops, Projection, V

EMBEDDING, NORM = "model.embed_tokens", "model.norm"


def embedded(o: Ops[V], spec: Spec) -> V:
    """The tokens' embeddings. -> (T, D)"""
    x = o.embed(EMBEDDING, spec.vocabulary, spec.width)
    return o.tap(scaled(o, x, spec.embedding_scale), EMBEDDING)


def head(o: Ops[V], spec: Spec, normed: V) -> V:
    """Logits of normed values. (T, D) -> (T, V)"""
    name = EMBEDDING if spec.tied else "lm_head"
    logits = o.linear(o.tap(normed, NORM), name, spec.vocabulary)
    logits = scaled(o, logits, spec.logits_scale)
    return o.soft_cap(logits, spec.logits_cap) if spec.logits_cap else logits


def scaled(o: Ops[V], x: V, by: float) -> V:
    """x * by, where that is not x. Same shape."""
    return x if by == 1.0 else o.scale(x, by)


def attention(o: Ops[V], spec: Spec, x: V, layer: int) -> V:
    """Grouped-query attention with rope, optional biases and q/k norm. (T, D) -> (T, D)"""
    at = f"model.layers.{layer}.self_attn"
    q, k, v = _projected(o, spec, x, at)
    q, k, v = o.split_heads(q, spec.heads), *(o.split_heads(y, spec.kv_heads) for y in (k, v))
    if spec.qk_norm:
        q = o.rms_norm(q, f"{at}.q_norm", spec.eps)
        k = o.rms_norm(k, f"{at}.k_norm", spec.eps)
    mixed = o.rotary_attention(q, k, v, layer, spec.rope_at(layer), spec.attention(layer))
    return o.tap(o.linear(mixed, f"{at}.o_proj", spec.width, spec.output_bias), at)


def gated_mlp(o: Ops[V], spec: Spec, x: V, layer: int) -> V:
    """Gated feed-forward: down(activation(gate(x)) * up(x)). (T, D) -> (T, D)"""
    at = f"model.layers.{layer}.mlp"
    widths = dict.fromkeys(("gate_proj", "up_proj"), spec.feed_forward)
    gate, up = _products(o, spec, x, at, "gate_up_proj", widths, spec.mlp_bias)
    active = {"silu": o.silu, "gelu_tanh": o.gelu_tanh}[spec.activation](gate)
    down = o.linear(o.mul(active, up), f"{at}.down_proj", spec.width, spec.mlp_bias)
    return o.tap(down, at)


def _projected(o: Ops[V], spec: Spec, x: V, at: str) -> tuple[V, ...]:
    q_width, kv_width = spec.heads * spec.head_width, spec.kv_heads * spec.head_width
    widths = {"q_proj": q_width, "k_proj": kv_width, "v_proj": kv_width}
    return _products(o, spec, x, at, "qkv_proj", widths, spec.qkv_bias)


def _products(
    o: Ops[V], spec: Spec, x: V, at: str, joined: str, widths: dict[str, int], bias: bool
) -> tuple[V, ...]:
    """Linears of the same values, stored one by one or as one matrix."""
    if spec.joined:
        whole = o.linear(x, f"{at}.{joined}", sum(widths.values()), bias)
        return o.split(whole, tuple(widths.values()))
    return o.linears(x, [Projection(f"{at}.{name}", width, bias) for name, width in widths.items()])
