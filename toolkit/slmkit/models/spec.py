"""The frozen facts of one model, read once from config.json."""

from __future__ import annotations

from dataclasses import dataclass, replace

from slmkit.models.rope import LongRope
from slmkit.ops import Attention, Rope, Routing


@dataclass(frozen=True)
class Names:
    """What a checkpoint calls its weights, where families differ; llama's by default.

    ``qkv`` and ``gate_up``: one name each, or one for the matrix that holds all of them.
    """

    first_norm: str = "input_layernorm"  # of a layer
    second_norm: str = "post_attention_layernorm"
    last_norm: str = "model.norm"
    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    q_norm: str = "q_norm"
    k_norm: str = "k_norm"
    attention_output: str = "o_proj"
    mlp: str = "mlp"
    gate_up: tuple[str, ...] = ("gate_proj", "up_proj")
    down: str = "down_proj"


@dataclass(frozen=True)
class MoE:
    """The experts of a layer's feed-forward."""

    experts: int  # E
    routing: Routing
    feed_forward: int  # F of each
    layers: tuple[bool, ...]  # which layers have them
    shared: int = 0  # F of the expert that every token goes through; 0: none
    shared_weighed: bool = True  # and what it gives is weighed by a gate of its own
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
class ShortConvolution:
    """The layers that convolve in place of attention, with a gate before and one after."""

    kernel: int  # K
    bias: bool  # of the convolution and of both projections


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
    rope: Rope  # without pairs: nothing rotates
    tied: bool  # lm_head shares embed_tokens
    qkv_bias: bool
    output_bias: bool  # of the attention's o_proj
    mlp_bias: bool
    qk_norm: bool  # RMS norm over each head of q and k, before rope
    windows: tuple[int | None, ...]  # one per layer: sliding window in tokens, or None
    kinds: tuple[str, ...]  # one per layer, what mixes tokens: attention, conv or scan
    trained_context: int  # most positions the model was made for
    activation: str = "silu"  # of the feed-forward's gate: silu or gelu_tanh
    names: Names = Names()
    local_rope: Rope | None = None  # of layers with a window; None: as the others
    long_rope: LongRope | None = None  # in place of ``rope`` for long contexts
    whole_norm: bool = False  # RMS norm over all of q and all of k, before heads are split
    moe: MoE | None = None  # experts in place of the feed-forward
    state: StateSpace | None = None  # of the layers that scan
    convolution: ShortConvolution | None = None  # of the layers that convolve
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

    def layers_of(self, kind: str) -> tuple[int, ...]:
        """The layers in which tokens are mixed so: by attention, conv or scan."""
        return tuple(layer for layer, each in enumerate(self.kinds) if each == kind)

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The different ropes of the layers, in order of their first use."""
        used = dict.fromkeys(self.rope_at(layer) for layer in self.layers_of("attention"))
        return tuple(rope for rope in used if rope.frequencies)

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
