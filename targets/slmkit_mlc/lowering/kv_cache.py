"""The paged KV cache: TVM's own, with the model's heads, sliding windows and RoPE."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.relax.frontend.nn.llm.kv_cache import RopeMode, TIRPagedKVCache

from slmkit.backend.interface import Model, Spec
from slmkit.ops import NO_ROPE, Rope
from slmkit_mlc.contract import CACHE_SIZES, CONSTRUCTORS, KV
from slmkit_mlc.kernels.rope import split_rotary
from slmkit_mlc.kernels.soft_cap import add_soft_cap
from slmkit_mlc.kernels.tvm_fixes import fix_masked_maximum, merge_state
from slmkit_mlc.sizes import cache_layer_kinds, sliding_window

NO_ROTATION = Rope((0.0,))  # the identity: cos 0 = 1, sin 0 = 0
SCORE_KERNELS = "tir_attention_(prefill|decode).*"  # kernels that compute attention scores
DEFAULT_WINDOW = 1024  # TVM's default, for models without a sliding window


def cache_rope(spec: Spec) -> Rope:
    """The rope that the cache applies to every layer: the one that all layers have, or none."""
    ropes = {spec.rope_at(layer) for layer in spec.layers_of("attention")}
    return ropes.pop() if len(ropes) == 1 and NO_ROPE not in ropes else NO_ROTATION


def add_cache_constructor(bb: relax.BlockBuilder, model: Model, dtype: str, target: Any) -> None:
    """Emit the constructor of the KV cache and its kernels; its inputs are CACHE_SIZES."""
    sizes = [tirx.Var(name, "int64") for name in CACHE_SIZES]
    params = [
        relax.Var(f"{name}_", relax.ShapeType([size]))
        for name, size in zip(CACHE_SIZES, sizes, strict=True)
    ]
    spec, kinds = model.spec, cache_layer_kinds(model)
    rope = cache_rope(spec)
    with bb.function(CONSTRUCTORS[KV], params):
        cache = TIRPagedKVCache(
            kinds,
            *sizes,
            layer_partition=relax.ShapeExpr([0, len(kinds)]),
            num_hidden_layers=len(kinds),
            num_attention_heads=spec.heads,
            num_key_value_heads=spec.kv_heads,
            qk_head_dim=spec.head_width,
            v_head_dim=spec.head_width,
            mla_original_qk_head_dim=0,
            mla_original_v_head_dim=0,
            rope_mode=RopeMode.NORMAL,
            rope_scale=1,
            rope_theta=1,
            rope_scaling={},
            rope_ext_factors=relax.const(np.asarray(rope.frequencies, np.float32)),
            rotary_dim=rope.width,
            enable_disaggregation=False,
            dtype=dtype,
            target=target,
            layer_sliding_window_size=sliding_window(spec) or DEFAULT_WINDOW,
        )
        bb.emit_func_output(cache._expr)
    _replace_kernels(bb, "tir_split_rotary", lambda _: split_rotary(spec, rope, dtype))
    _replace_kernels(bb, "tir_attention_merge_state", lambda _: merge_state(spec, dtype))
    _replace_kernels(bb, "tir_attention_prefill_cpu_sliding_window", fix_masked_maximum)
    cap = spec.attention_cap
    if cap is not None:
        _replace_kernels(bb, SCORE_KERNELS, lambda kernel: add_soft_cap(kernel, cap))


def _replace_kernels(bb: relax.BlockBuilder, pattern: str, replace: Callable[[Any], Any]) -> None:
    """Replace the cache's kernels whose names match; a target may have none of them."""
    mod = bb.get()
    for global_var in mod.get_global_vars():
        if re.fullmatch(pattern, global_var.name_hint):
            bb.update_func(global_var, replace(mod[global_var]))
