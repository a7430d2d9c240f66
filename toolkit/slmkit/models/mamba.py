"""Mamba and Mamba-2: a causal convolution and a selective scan in place of attention."""

from __future__ import annotations

from slmkit.models.blocks import scale
from slmkit.models.config import Config
from slmkit.models.spec import Spec, StateSpace
from slmkit.models.weight_transforms import minus_exp
from slmkit.ops import NO_ROPE, Ops, Scan, V

EMBEDDING, NORM = "backbone.embeddings", "backbone.norm_f"
TRANSFORMS = {".A_log": minus_exp}
# Values of time_step_limit that mean no limit, in the spellings of transformers 4 and 5.
NO_STEP_LIMITS = (None, [0.0, float("inf")], [0.0, {"__float__": "Infinity"}])
# Mamba has no positions, so nothing limits its context; its authors trained on 2048 tokens.
LARGEST_CONTEXT = 1 << 20


def forward(o: Ops[V], spec: Spec) -> V:
    """Token ids to logits. -> (T, V)"""
    x = o.embed(EMBEDDING, spec.vocabulary, spec.width)
    x = o.tap(scale(o, x, spec.stream_scale), EMBEDDING)
    normed = o.rms_norm(x, "backbone.layers.0.norm", spec.stream_eps)
    for layer in range(spec.layers):
        last = layer + 1 == spec.layers
        next_norm = NORM if last else f"backbone.layers.{layer + 1}.norm"
        update = mixer(o, spec, normed, f"backbone.layers.{layer}.mixer", layer)
        x, normed = o.add_norm(x, update, next_norm, spec.stream_eps)
        o.tap(x, f"backbone.layers.{layer}")
    head = EMBEDDING if spec.tied else "lm_head"
    return o.linear(o.tap(normed, NORM), head, spec.vocabulary)


def read_mamba(config: Config) -> Spec:
    """MambaForCausalLM: every channel is a head, with N decay rates (A is (H, N))."""
    inner = config.integer("intermediate_size")
    state = StateSpace(
        inner=inner,
        heads=inner,
        state=config.integer("state_size"),
        kernel=config.integer("conv_kernel", least=2),
        rank=config.integer("time_step_rank"),
        conv_bias=config.boolean("use_conv_bias"),
        bias=config.boolean("use_bias"),
    )
    return _spec(config, state)


def read_mamba2(config: Config) -> Spec:
    """Mamba2ForCausalLM: heads of P channels, with one decay rate each (A is (H,))."""
    config.expect("n_groups", 1, default=8)  # the format's own default
    refuse_step_limits(config)
    heads = config.integer("num_heads")
    state = StateSpace(
        inner=heads * config.integer("head_dim"),
        heads=heads,
        state=config.integer("state_size"),
        kernel=config.integer("conv_kernel", least=2),
        rank=0,
        conv_bias=config.boolean("use_conv_bias"),
        bias=config.boolean("use_bias"),
    )
    return _spec(config, state)


def refuse_step_limits(config: Config) -> None:
    """Refuse a model that clamps the step: raises CheckpointError for a ``time_step_limit``."""
    if config.values.get("time_step_limit") not in NO_STEP_LIMITS:
        config.expect("time_step_limit", None, default=None)


def mixer(o: Ops[V], spec: Spec, x: V, at: str, layer: int) -> V:
    """The sublayer of convolution and scan, whose weights begin with ``at``. (T, D) -> (T, D)"""
    kind = spec.state
    if kind is None:
        raise ValueError(f"{spec.model_type} has no state space")
    version = _mamba if kind.rank else _mamba2
    y = version(o, spec, kind, x, at, layer)
    return o.tap(o.linear(y, f"{at}.out_proj", spec.width, kind.bias), at)


def _spec(config: Config, state: StateSpace) -> Spec:
    config.expect("hidden_act", "silu", default="silu")
    return Spec(
        model_type=config.string("model_type"),
        layers=config.count("num_hidden_layers"),
        width=config.integer("hidden_size"),
        heads=0,
        kv_heads=0,
        head_width=0,
        feed_forward=0,
        vocabulary=config.integer("vocab_size"),
        eps=config.epsilon("layer_norm_epsilon"),
        rope=NO_ROPE,
        tied=config.boolean("tie_word_embeddings"),
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        qk_norm=False,
        windows=(),
        kinds=("scan",) * config.count("num_hidden_layers"),
        trained_context=LARGEST_CONTEXT,
        state=state,
    )


def _mamba(o: Ops[V], spec: Spec, kind: StateSpace, x: V, at: str, layer: int) -> V:
    """Mamba: step, B and C are projections of the convolution's output. (T, D) -> (T, H * P)

    Source: transformers' ``MambaMixer``.
    """
    inner, size = kind.inner, kind.state
    x, gate = o.split(o.linear(x, f"{at}.in_proj", 2 * inner, kind.bias), (inner, inner))
    x = o.silu(o.conv(x, f"{at}.conv1d", kind.kernel, layer, kind.conv_bias))
    widths = (kind.rank, size, size)
    step, b, c = o.split(o.linear(x, f"{at}.x_proj", sum(widths)), widths)
    step = o.softplus(o.linear(step, f"{at}.dt_proj", inner, bias=True))
    y = o.scan(x, step, b, c, layer, Scan(at, kind.heads, size, by_number=True))
    return o.mul(y, o.silu(gate))


def _mamba2(o: Ops[V], spec: Spec, kind: StateSpace, x: V, at: str, layer: int) -> V:
    """Mamba-2: one projection makes gate, x, B, C and step; a norm follows the gate.

    (T, D) -> (T, H * P). Source: transformers' ``Mamba2Mixer``.
    """
    inner, size = kind.inner, kind.state
    widths = (inner, inner + 2 * size, kind.heads)
    gate, xbc, step = o.split(o.linear(x, f"{at}.in_proj", sum(widths), kind.bias), widths)
    xbc = o.silu(o.conv(xbc, f"{at}.conv1d", kind.kernel, layer, kind.conv_bias))
    x, b, c = o.split(xbc, (inner, size, size))
    step = o.softplus(o.add_bias(step, f"{at}.dt_bias"))
    y = o.scan(x, step, b, c, layer, Scan(at, kind.heads, size, by_number=False))
    return o.rms_norm(o.mul(y, o.silu(gate)), f"{at}.norm", spec.eps)
