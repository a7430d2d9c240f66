"""The spec of a model: frozen facts, read once from config.json."""

from __future__ import annotations

from dataclasses import dataclass, replace

from slmkit.models.rope import LongRope
from slmkit.ops import NO_ROPE, Attention, Rope, Routing

FLOAT16_LEAST = 2.0**-24  # the least positive number of float16


@dataclass(frozen=True)
class Names:
    """Names of a checkpoint's weights where families differ; llama's by default.

    ``qkv`` and ``gate_up``: one name per weight, or a single name of a fused weight.
    """

    first_norm: str = "input_layernorm"
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
    """The mixture of experts that replaces the mlp of some layers."""

    experts: int  # E
    routing: Routing
    feed_forward: int  # F of each expert
    layers: tuple[bool, ...]  # one per layer: experts or a plain mlp
    shared: int = 0  # F of the shared expert, which every token passes through; 0: none
    shared_weighed: bool = True  # the shared expert's output is multiplied by a sigmoid gate
    stacked: bool = False  # the checkpoint stores the matrices of all experts in one tensor


@dataclass(frozen=True)
class StateSpace:
    """Sizes of the layers that have a selective scan in place of attention."""

    inner: int  # channels, H * P
    heads: int  # H, each with its own step; in Mamba every channel is a head
    state: int  # N
    kernel: int  # K of the convolution
    rank: int  # of the step's low-rank projection (Mamba); 0: none (Mamba-2)
    conv_bias: bool
    bias: bool  # of in_proj and out_proj


@dataclass(frozen=True)
class ShortConvolution:
    """Sizes of the layers that have a gated short convolution in place of attention."""

    kernel: int  # K
    bias: bool  # of the convolution, in_proj and out_proj


@dataclass(frozen=True)
class Spec:
    """The facts that a forward pass depends on; letters as in the shape key of ``slmkit.ops``.

    The names of its fields, and of those of its parts, are in files that backends write
    (``backend.job.spec_to_json``): renaming one would make older bundles unreadable.
    """

    model_type: str
    layers: int  # L
    width: int  # D
    heads: int  # H
    kv_heads: int  # G
    head_width: int  # d
    feed_forward: int  # F
    vocabulary: int  # V
    eps: float
    rope: Rope  # NO_ROPE: no layer has one
    tied: bool  # lm_head shares embed_tokens
    qkv_bias: bool
    output_bias: bool  # of the attention's o_proj
    mlp_bias: bool
    qk_norm: bool  # RMS norm over each head of q and k, before rope
    windows: tuple[int | None, ...]  # one per layer: sliding window in tokens, or None
    kinds: tuple[str, ...]  # one per layer, the token mixer: attention, conv or scan
    trained_context: int  # in tokens
    activation: str = "silu"  # of the mlp's gate: silu or gelu_tanh
    names: Names = Names()
    local_rope: Rope | None = None  # of layers with a window; None: ``rope``
    long_rope: LongRope | None = None  # replaces ``rope`` in long contexts
    whole_norm: bool = False  # RMS norm over all channels of q and of k, before heads are split
    moe: MoE | None = None
    state: StateSpace | None = None  # of layers of kind scan
    convolution: ShortConvolution | None = None  # of layers of kind conv
    attention_scale: float | None = None  # None: 1 / sqrt(d)
    attention_cap: float | None = None  # soft cap of attention scores
    logits_cap: float | None = None  # soft cap of logits
    embedding_scale: float = 1.0  # factor on embeddings
    residual_scale: float = 1.0  # factor on each sublayer's output before the residual addition
    logits_scale: float = 1.0  # factor on logits
    nope_layers: tuple[int, ...] = ()  # layers without rope in a model that has one
    stream_scale: float = 1.0  # the residual stream is held times this power of two

    @property
    def stream_eps(self) -> float:
        """eps of the norms that read the residual stream: with it they do not see its scale.

        It stays a number of float16, which would round a smaller one to 0.
        """
        scaled = self.eps * self.stream_scale**2
        return max(scaled, FLOAT16_LEAST) if self.stream_scale < 1 else scaled

    def scaled(self, stream_scale: float) -> Spec:
        """The spec with its residual stream held times ``stream_scale``.

        The weights whose outputs are added to the stream hold that factor themselves.
        """
        return replace(self, stream_scale=stream_scale)

    def attention(self, layer: int) -> Attention:
        """Attention parameters of one layer."""
        scale = self.attention_scale or self.head_width**-0.5
        return Attention(scale, self.windows[layer], self.attention_cap)

    def rope_at(self, layer: int) -> Rope:
        """The rope of one layer; NO_ROPE if it has none."""
        if layer in self.nope_layers:
            return NO_ROPE
        return self.local_rope if self.local_rope and self.windows[layer] else self.rope

    def layers_of(self, kind: str) -> tuple[int, ...]:
        """Numbers of the layers of one kind: attention, conv or scan."""
        return tuple(layer for layer, each in enumerate(self.kinds) if each == kind)

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The distinct ropes of all attention layers, in order of first use."""
        used = dict.fromkeys(self.rope_at(layer) for layer in self.layers_of("attention"))
        return tuple(rope for rope in used if rope != NO_ROPE)

    def at_context(self, context: int) -> Spec:
        """The spec for a context length of ``context`` tokens: one rope for all positions.

        A longrope model has two ropes. Keys rotated by one cannot be compared with queries rotated
        by the other, so the context length selects the rope, not the length of a sequence.
        """
        if self.long_rope is None or context <= self.long_rope.beyond:
            return self
        return replace(self, rope=self.long_rope.rope)

    @property
    def rope_context(self) -> int:
        """Largest context length, in tokens, for which ``rope`` is valid."""
        if self.long_rope is None or self.rope == self.long_rope.rope:
            return self.trained_context
        return self.long_rope.beyond
