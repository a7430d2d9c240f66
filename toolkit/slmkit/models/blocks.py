"""Blocks shared by architectures: decoder, embedding, attention, gated mlp, experts, head."""

from __future__ import annotations

from collections.abc import Callable

from slmkit.models.spec import MoE, Spec
from slmkit.ops import NO_ROPE, Expert, Ops, Projection, V

EMBEDDING = "model.embed_tokens"
Sublayer = Callable[[Ops[V], Spec, V, int], V]  # (o, spec, x, layer): (T, D) -> (T, D)


def decoder(o: Ops[V], spec: Spec, mixer: Sublayer[V], mlp: Sublayer[V]) -> V:
    """A pre-norm decoder, token ids to logits. -> (T, V)

    ``mixer``: the sublayer that combines tokens (attention, convolution or scan).
    ``mlp``: the sublayer that treats each token by itself.
    """
    x = embedding(o, spec)
    normed = o.rms_norm(x, f"model.layers.0.{spec.names.first_norm}", spec.stream_eps)
    for layer in range(spec.layers):
        at = f"model.layers.{layer}"
        update = scale(o, mixer(o, spec, normed, layer), spec.residual_scale)
        x, normed = o.add_norm(x, update, f"{at}.{spec.names.second_norm}", spec.stream_eps)
        update = scale(o, mlp(o, spec, normed, layer), spec.residual_scale)
        x, normed = o.add_norm(x, update, next_norm(spec, layer), spec.stream_eps)
        o.tap(x, at)
    return head(o, spec, normed)


def embedding(o: Ops[V], spec: Spec) -> V:
    """Token embeddings, times their scale and the residual stream's. -> (T, D)"""
    x = o.embed(EMBEDDING, spec.vocabulary, spec.width)
    return o.tap(scale(o, x, spec.embedding_scale * spec.stream_scale), EMBEDDING)


def head(o: Ops[V], spec: Spec, normed: V) -> V:
    """Logits from the final norm's output. (T, D) -> (T, V)"""
    name = EMBEDDING if spec.tied else "lm_head"
    logits = o.linear(o.tap(normed, spec.names.last_norm), name, spec.vocabulary)
    logits = scale(o, logits, spec.logits_scale)
    return o.soft_cap(logits, spec.logits_cap) if spec.logits_cap else logits


def next_norm(spec: Spec, layer: int) -> str:
    """Name of the norm after a layer: the next layer's first norm, or the model's final norm."""
    if layer + 1 == spec.layers:
        return spec.names.last_norm
    return f"model.layers.{layer + 1}.{spec.names.first_norm}"


def scale(o: Ops[V], x: V, by: float) -> V:
    """x * by; no op for a factor of 1. Same shape."""
    return x if by == 1.0 else o.scale(x, by)


def attention(o: Ops[V], spec: Spec, x: V, layer: int) -> V:
    """Grouped-query attention; rope, biases and q/k norm by ``spec``. (T, D) -> (T, D)"""
    at = f"model.layers.{layer}.self_attn"
    rope, kind = spec.rope_at(layer), spec.attention(layer)
    q, k, v = _project_qkv(o, spec, x, at)
    if spec.whole_norm:
        q, k = _normalize_qk(o, spec, q, k, at)
    q, k, v = o.split_heads(q, spec.heads), *(o.split_heads(y, spec.kv_heads) for y in (k, v))
    if spec.qk_norm:
        q, k = _normalize_qk(o, spec, q, k, at)
    if rope == NO_ROPE:
        mixed = o.attend(q, k, v, layer, kind)
    else:
        mixed = o.rotary_attention(q, k, v, layer, rope, kind)
    name = f"{at}.{spec.names.attention_output}"
    return o.tap(o.linear(mixed, name, spec.width, spec.output_bias), at)


def feed_forward(o: Ops[V], spec: Spec, x: V, layer: int) -> V:
    """The mlp sublayer: one gated mlp, or a mixture of experts. (T, D) -> (T, D)"""
    if spec.moe and spec.moe.layers[layer]:
        return moe(o, spec, spec.moe, x, layer)
    return gated_mlp(o, spec, x, f"model.layers.{layer}.{spec.names.mlp}", spec.feed_forward)


def gated_mlp(o: Ops[V], spec: Spec, x: V, at: str, width: int) -> V:
    """Gated feed-forward: down(activation(gate(x)) * up(x)). (T, D) -> (T, D)"""
    gate, up = _linears(o, x, at, spec.names.gate_up, (width, width), spec.mlp_bias)
    active = {"silu": o.silu, "gelu_tanh": o.gelu_tanh}[spec.activation](gate)
    down = o.linear(
        o.gated_product(active, up), f"{at}.{spec.names.down}", spec.width, spec.mlp_bias
    )
    return o.tap(down, at)


def moe(o: Ops[V], spec: Spec, kind: MoE, x: V, layer: int) -> V:
    """A mixture of experts: router, routed experts, optional shared expert. (T, D) -> (T, D)"""
    at = f"model.layers.{layer}.{'block_sparse_moe' if kind.stacked else 'mlp'}"
    router = f"{at}.{'router.layer' if kind.stacked else 'gate'}"
    experts = [_expert(spec, kind, at, number) for number in range(kind.experts)]
    total = o.experts(x, o.linear(x, router, kind.experts), kind.routing, experts)
    if kind.shared and kind.shared_weighed:
        shared = gated_mlp(o, spec, x, f"{at}.shared_expert", kind.shared)
        gate = o.sigmoid(o.linear(x, f"{at}.shared_expert_gate", 1))
        total = o.add(total, o.scale_by_column(shared, gate, 0))
    elif kind.shared:
        name = f"model.layers.{layer}.{spec.names.mlp}"
        total = o.add(total, gated_mlp(o, spec, x, name, kind.shared))
    return o.tap(total, at)


def _expert(spec: Spec, kind: MoE, at: str, number: int) -> Expert:
    if kind.stacked:
        gate_up: tuple[str, ...] = (f"{at}.input_linear.{number}",)
        down = f"{at}.output_linear.{number}"
    else:
        name = f"{at}.experts.{number}"
        gate_up, down = (f"{name}.gate_proj", f"{name}.up_proj"), f"{name}.down_proj"
    return Expert(gate_up, down, kind.feed_forward, spec.width)


def _project_qkv(o: Ops[V], spec: Spec, x: V, at: str) -> tuple[V, ...]:
    q_width, kv_width = spec.heads * spec.head_width, spec.kv_heads * spec.head_width
    widths = (q_width, kv_width, kv_width)
    return _linears(o, x, at, spec.names.qkv, widths, spec.qkv_bias)


def _normalize_qk(o: Ops[V], spec: Spec, q: V, k: V, at: str) -> tuple[V, V]:
    """RMS norm of q and k over their last axis: all channels, or each head's. Same shapes."""
    names = spec.names
    return (
        o.rms_norm(q, f"{at}.{names.q_norm}", spec.eps),
        o.rms_norm(k, f"{at}.{names.k_norm}", spec.eps),
    )


def _linears(
    o: Ops[V], x: V, at: str, names: tuple[str, ...], widths: tuple[int, ...], bias: bool
) -> tuple[V, ...]:
    """Linears of the same x: a weight for each name, or one fused weight whose output is split."""
    if len(names) == 1:
        return o.split(o.linear(x, f"{at}.{names[0]}", sum(widths), bias), widths)
    pairs = zip(names, widths, strict=True)
    return o.linears(x, [Projection(f"{at}.{name}", width, bias) for name, width in pairs])
