"""The frozen facts of one model, read once from config.json."""

from __future__ import annotations

from dataclasses import dataclass

from slmkit.ops import Attention, Rope


@dataclass(frozen=True)
class Spec:
    """What an architecture needs to know; the letters are the shape key of ``slmkit.ops``."""

    model_type: str
    layers: int  # L
    width: int  # D
    heads: int  # H
    kv_heads: int  # G
    head_width: int  # d
    feed_forward: int  # F
    vocabulary: int  # V
    eps: float
    rope: Rope
    tied: bool  # lm_head shares embed_tokens
    qkv_bias: bool
    output_bias: bool  # of the attention's o_proj
    mlp_bias: bool
    qk_norm: bool  # RMS norm over each head of q and k, before rope
    windows: tuple[int | None, ...]  # one per layer: sliding window in tokens, or None
    trained_context: int  # most positions the model was made for

    def attention(self, layer: int) -> Attention:
        """The attention of one layer; scale 1 / sqrt(d)."""
        return Attention(scale=self.head_width**-0.5, window=self.windows[layer])

    def kv_values(self, tokens: int) -> int:
        """How many numbers the KV cache holds for this many tokens: 2 * L * G * d * tokens."""
        return 2 * self.layers * self.kv_heads * self.head_width * tokens
