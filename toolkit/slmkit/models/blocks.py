"""Blocks that several architectures share: embedding, layers, attention, gated mlp, head."""

from __future__ import annotations

from collections.abc import Callable

from slmkit.models.spec import MoE, Spec
from slmkit.ops import Expert, Ops, Projection, V

EMBEDDING = "model.embed_tokens"
Half = Callable[[Ops[V], Spec, V, int], V]  # half of a layer: (T, D) -> (T, D)


def decoder(o: Ops[V], spec: Spec, mixed: Half[V], fed: Half[V]) -> V:
    """Token ids to logits, by layers of two halves with a norm before each. -> (T, V)

    ``mixed``: what carries tokens to tokens; ``fed``: what goes through each token by itself.
    """
    x = embedded(o, spec)
    normed = o.rms_norm(x, f"model.layers.0.{spec.names.first_norm}", spec.eps)
    for layer in range(spec.layers):
        at = f"model.layers.{layer}"
        each = scaled(o, mixed(o, spec, normed, layer), spec.residual_scale)
        x, normed = o.add_norm(x, each, f"{at}.{spec.names.second_norm}", spec.eps)
        each = scaled(o, fed(o, spec, normed, layer), spec.residual_scale)
        x, normed = o.add_norm(x, each, next_norm(spec, layer), spec.eps)
        o.tap(x, at)
    return head(o, spec, normed)


def embedded(o: Ops[V], spec: Spec) -> V:
    """The tokens' embeddings. -> (T, D)"""
    x = o.embed(EMBEDDING, spec.vocabulary, spec.width)
    return o.tap(scaled(o, x, spec.embedding_scale), EMBEDDING)


def head(o: Ops[V], spec: Spec, normed: V) -> V:
    """Logits of normed values. (T, D) -> (T, V)"""
    name = EMBEDDING if spec.tied else "lm_head"
    logits = o.linear(o.tap(normed, spec.names.last_norm), name, spec.vocabulary)
    logits = scaled(o, logits, spec.logits_scale)
    return o.soft_cap(logits, spec.logits_cap) if spec.logits_cap else logits


def next_norm(spec: Spec, layer: int) -> str:
    """The norm after a layer: the first of the next one, or the last of all."""
    if layer + 1 == spec.layers:
        return spec.names.last_norm
    return f"model.layers.{layer + 1}.{spec.names.first_norm}"


def scaled(o: Ops[V], x: V, by: float) -> V:
    """x * by, where that is not x. Same shape."""
    return x if by == 1.0 else o.scale(x, by)


def attention(o: Ops[V], spec: Spec, x: V, layer: int) -> V:
    """Grouped-query attention, mostly with rope; optional biases, q/k norm. (T, D) -> (T, D)"""
    at = f"model.layers.{layer}.self_attn"
    rope, kind = spec.rope_at(layer), spec.attention(layer)
    q, k, v = _projected(o, spec, x, at)
    if spec.whole_norm:
        q, k = _normed(o, spec, q, k, at)
    q, k, v = o.split_heads(q, spec.heads), *(o.split_heads(y, spec.kv_heads) for y in (k, v))
    if spec.qk_norm:
        q, k = _normed(o, spec, q, k, at)
    if rope.frequencies:
        mixed = o.rotary_attention(q, k, v, layer, rope, kind)
    else:
        mixed = o.attend(q, k, v, layer, kind)
    name = f"{at}.{spec.names.attention_output}"
    return o.tap(o.linear(mixed, name, spec.width, spec.output_bias), at)


def feed_forward(o: Ops[V], spec: Spec, x: V, layer: int) -> V:
    """The second half of a layer: one gated mlp, or experts. (T, D) -> (T, D)"""
    if spec.moe and spec.moe.layers[layer]:
        return moe(o, spec, spec.moe, x, layer)
    return gated_mlp(o, spec, x, f"model.layers.{layer}.{spec.names.mlp}", spec.feed_forward)


def gated_mlp(o: Ops[V], spec: Spec, x: V, at: str, width: int) -> V:
    """Gated feed-forward: down(activation(gate(x)) * up(x)). (T, D) -> (T, D)"""
    gate, up = _products(o, x, at, spec.names.gate_up, (width, width), spec.mlp_bias)
    active = {"silu": o.silu, "gelu_tanh": o.gelu_tanh}[spec.activation](gate)
    down = o.linear(o.mul(active, up), f"{at}.{spec.names.down}", spec.width, spec.mlp_bias)
    return o.tap(down, at)


def moe(o: Ops[V], spec: Spec, kind: MoE, x: V, layer: int) -> V:
    """A router, the experts that it chooses, and one that every token goes through, if any."""
    at = f"model.layers.{layer}.{'block_sparse_moe' if kind.stacked else 'mlp'}"
    router = f"{at}.{'router.layer' if kind.stacked else 'gate'}"
    experts = [_expert(spec, kind, at, number) for number in range(kind.experts)]
    total = o.experts(x, o.linear(x, router, kind.experts), kind.routing, experts)
    if kind.shared and kind.shared_weighed:
        each = gated_mlp(o, spec, x, f"{at}.shared_expert", kind.shared)
        gate = o.sigmoid(o.linear(x, f"{at}.shared_expert_gate", 1))
        total = o.add(total, o.scale_by_column(each, gate, 0))
    elif kind.shared:
        beside = f"model.layers.{layer}.{spec.names.mlp}"
        total = o.add(total, gated_mlp(o, spec, x, beside, kind.shared))
    return o.tap(total, at)


def _expert(spec: Spec, kind: MoE, at: str, number: int) -> Expert:
    if kind.stacked:
        gate_up: tuple[str, ...] = (f"{at}.input_linear.{number}",)
        down = f"{at}.output_linear.{number}"
    else:
        inside = f"{at}.experts.{number}"
        gate_up, down = (f"{inside}.gate_proj", f"{inside}.up_proj"), f"{inside}.down_proj"
    return Expert(gate_up, down, kind.feed_forward, spec.width)


def _projected(o: Ops[V], spec: Spec, x: V, at: str) -> tuple[V, ...]:
    q_width, kv_width = spec.heads * spec.head_width, spec.kv_heads * spec.head_width
    widths = (q_width, kv_width, kv_width)
    return _products(o, x, at, spec.names.qkv, widths, spec.qkv_bias)


def _normed(o: Ops[V], spec: Spec, q: V, k: V, at: str) -> tuple[V, V]:
    """RMS norm of q and k: of all of it, or of each head. Same shapes."""
    names = spec.names
    return (
        o.rms_norm(q, f"{at}.{names.q_norm}", spec.eps),
        o.rms_norm(k, f"{at}.{names.k_norm}", spec.eps),
    )


def _products(
    o: Ops[V], x: V, at: str, names: tuple[str, ...], widths: tuple[int, ...], bias: bool
) -> tuple[V, ...]:
    """Linears of the same values, stored one by one or as one matrix."""
    if len(names) == 1:
        return o.split(o.linear(x, f"{at}.{names[0]}", sum(widths), bias), widths)
    pairs = zip(names, widths, strict=True)
    return o.linears(x, [Projection(f"{at}.{name}", width, bias) for name, width in pairs])
