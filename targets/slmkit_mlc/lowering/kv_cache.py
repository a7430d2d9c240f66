"""The paged KV cache: TVM's own, with the model's heads, windows and rotation."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.relax.frontend.nn.llm.kv_cache import RopeMode, TIRPagedKVCache

from slmkit.backend.interface import Model, Spec
from slmkit.ops import Rope
from slmkit_mlc.contract import CACHE_SIZES, CREATE, KV
from slmkit_mlc.kernels.rope import split_rotary
from slmkit_mlc.kernels.soft_cap import with_soft_cap
from slmkit_mlc.kernels.tvm_fixes import merge_state, with_maximum_kept
from slmkit_mlc.sizes import cache_layers, window_of

STILL = Rope((0.0,))  # rotates nothing: cos 0 = 1, sin 0 = 0
SCORING = "tir_attention_(prefill|decode).*"  # kernels that compare queries with keys
UNUSED = 1024  # a window that no layer has: TVM's default


def cache_rope(spec: Spec) -> Rope:
    """The rope that the cache itself applies: it knows one for all layers, or none."""
    return spec.ropes[0] if len(spec.ropes) == 1 else STILL


def add_cache(bb: relax.BlockBuilder, model: Model, dtype: str, target: Any) -> None:
    """Write the function that makes the cache: five sizes in, the cache out."""
    sizes = [tirx.Var(name, "int64") for name in CACHE_SIZES]
    given = [
        relax.Var(f"{name}_", relax.ShapeType([size]))
        for name, size in zip(CACHE_SIZES, sizes, strict=True)
    ]
    spec, kinds = model.spec, cache_layers(model)
    rope = cache_rope(spec)
    with bb.function(CREATE[KV], given):
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
            layer_sliding_window_size=window_of(spec) or UNUSED,
        )
        bb.emit_func_output(cache._expr)
    _replace(bb, "tir_split_rotary", lambda _: split_rotary(spec, rope, dtype))
    _replace(bb, "tir_attention_merge_state", lambda _: merge_state(spec, dtype))
    _replace(bb, "tir_attention_prefill_cpu_sliding_window", with_maximum_kept)
    cap = spec.attention_cap
    if cap is not None:
        _replace(bb, SCORING, lambda kernel: with_soft_cap(kernel, cap))


def _replace(bb: relax.BlockBuilder, pattern: str, change: Callable[[Any], Any]) -> None:
    """Other bodies for those of the cache's kernels whose names match, if this target has any."""
    mod = bb.get()
    for own in mod.get_global_vars():
        if re.fullmatch(pattern, own.name_hint):
            bb.update_func(own, change(mod[own]))
