"""The frozen facts of one model, read once from config.json."""

from __future__ import annotations

from dataclasses import dataclass, replace

from slmkit.models.rope import LongRope
from slmkit.ops import Attention, Rope, Routing


@dataclass(frozen=True)
class Mixture:
    """The experts of a layer's feed-forward."""

    experts: int  # E
    routing: Routing
    feed_forward: int  # F of each
    layers: tuple[bool, ...]  # which layers have them
    shared: int = 0  # F of the expert that every token goes through; 0: none
    stacked: bool = False  # the checkpoint has all experts' weights in one tensor


@dataclass(frozen=True)
class StateSpace:
    """The layers that scan in place of attention."""

    inner: int  # channels, H * P
    heads: int  # H, each with a step; in Mamba every channel is one
    state: int  # N
    kernel: int  # K of the convolution
    rank: int  # of the step's projection; 0: the step comes out of the first projection (Mamba-2)
    conv_bias: bool
    bias: bool  # of both outer projections


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
    activation: str = "silu"  # of the feed-forward's gate: silu or gelu_tanh
    joined: bool = False  # q, k and v are stored as one matrix, gate and up as another
    local_rope: Rope | None = None  # of layers with a window; None: as the others
    long_rope: LongRope | None = None  # in place of ``rope`` for long contexts
    whole_norm: bool = False  # RMS norm over all of q and all of k, before heads are split
    mixture: Mixture | None = None  # experts in place of the feed-forward
    state: StateSpace | None = None  # a scan in place of attention
    attention_scale: float | None = None  # None: 1 / sqrt(d)
    attention_cap: float | None = None  # soft cap of attention scores
    logits_cap: float | None = None  # soft cap of logits
    embedding_scale: float = 1.0  # embeddings are multiplied by it
    residual_scale: float = 1.0  # so is what a block adds
    logits_scale: float = 1.0  # and so are the logits

    def attention(self, layer: int) -> Attention:
        """The attention of one layer."""
        scale = self.attention_scale or self.head_width**-0.5
        return Attention(scale, self.windows[layer], self.attention_cap)

    def rope_at(self, layer: int) -> Rope:
        """The rope of one layer."""
        return self.local_rope if self.local_rope and self.windows[layer] else self.rope

    @property
    def state_values(self) -> int:
        """How many numbers the states of all layers hold, whatever the sequence's length."""
        kind = self.state
        if kind is None:
            return 0
        convolved = kind.inner + (0 if kind.rank else 2 * kind.state)
        return self.layers * (convolved * (kind.kernel - 1) + kind.inner * kind.state)

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The different ropes of the layers, in order of their first use."""
        layers = range(self.layers if self.heads else 0)
        return tuple(dict.fromkeys(self.rope_at(layer) for layer in layers))

    def at_context(self, context: int) -> Spec:
        """The facts that hold in a context of this many tokens: one rope for all of its positions.

        A longrope model has two: keys that were rotated by one can't be compared with queries
        rotated by the other, so the context decides, not the sequence.
        """
        if self.long_rope is None or context <= self.long_rope.beyond:
            return self
        return replace(self, rope=self.long_rope.rope)

    @property
    def rope_context(self) -> int:
        """Most positions that ``rope`` is for."""
        other = self.long_rope is not None and self.rope != self.long_rope.rope
        return self.long_rope.beyond if self.long_rope and other else self.trained_context

    def kv_values(self, tokens: int) -> int:
        """How many numbers the KV cache and the states hold for this many tokens."""
        return 2 * self.layers * self.kv_heads * self.head_width * tokens + self.state_values
