"""Attention as the Neural Engine likes it: heads apart, key-major, softmax over channels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813

from slmkit.ops import Attention, Rope
from slmkit.target import Spec
from slmkit_coreml.contract import Window, mask_name, rope_names


@dataclass
class AttentionWriter:
    """Writes attention and rope; gathers the new keys and values."""

    spec: Spec
    window: Window
    inputs: dict[str, Any]  # the function's, by name
    ropes: list[Rope] = field(default_factory=list)
    new_keys: list[Any] = field(default_factory=list)
    new_values: list[Any] = field(default_factory=list)

    def attend(self, q: Any, k: Any, v: Any, layer: int, kind: Attention) -> Any:
        """[1, H, d, T], [1, G, d, T] twice -> [1, H * d, 1, T]"""
        spec, tokens = self.spec, self.window.tokens
        for_q, for_k = scale_factors(kind.scale)
        flat_q = mb.reshape(
            x=mb.mul(x=q, y=for_q), shape=[1, spec.heads * spec.head_width, 1, tokens]
        )
        flat = [1, spec.kv_heads * spec.head_width, 1, tokens]
        new_k = mb.reshape(x=mb.mul(x=k, y=for_k), shape=flat)
        new_v = mb.reshape(x=v, shape=flat)
        self.new_keys.append(new_k)
        self.new_values.append(new_v)
        keys = mb.transpose(x=self._all("past_keys", layer, new_k), perm=[0, 3, 2, 1])
        values = self._all("past_values", layer, new_v)
        by_group = _apart(keys, spec.kv_heads, 3), _apart(values, spec.kv_heads, 1)
        mask = self.inputs[mask_name(kind.window)]
        share = spec.heads // spec.kv_heads
        mixed = [
            self._head(query, by_group[0][head // share], by_group[1][head // share], mask)
            for head, query in enumerate(_apart(flat_q, spec.heads, 1))
        ]
        return mb.concat(values=mixed, axis=1) if len(mixed) > 1 else mixed[0]

    def rotated(self, x: Any, heads: int, rope: Rope) -> Any:
        """Rotate-half rope. [1, heads, d, T]"""
        if rope not in self.ropes:
            self.ropes.append(rope)
        cos, sin = (self.inputs[name] for name in rope_names(self.ropes.index(rope)))
        half = [1, heads, self.spec.head_width // 2, self.window.tokens]
        a = mb.slice_by_size(x=x, begin=[0, 0, 0, 0], size=half)
        b = mb.slice_by_size(x=x, begin=[0, 0, half[2], 0], size=half)
        low = mb.sub(x=mb.mul(x=a, y=cos), y=mb.mul(x=b, y=sin))
        high = mb.add(x=mb.mul(x=b, y=cos), y=mb.mul(x=a, y=sin))
        return mb.concat(values=[low, high], axis=2)

    def _head(self, query: Any, key: Any, value: Any, mask: Any) -> Any:
        """[1, d, 1, T], [1, S, 1, d], [1, d, 1, S], [1, S, 1, T] -> [1, d, 1, T]"""
        scores = mb.einsum(values=(key, query), equation="nchw,nwhu->nchu")
        weights = mb.softmax(x=mb.add(x=scores, y=mask), axis=1)
        return mb.einsum(values=(value, weights), equation="nchw,nwhu->nchu")

    def _all(self, past: str, layer: int, new: Any) -> Any:
        """The cached ones of a layer, then the new ones. [1, G * d, 1, S]"""
        size = [1, self.spec.kv_heads * self.spec.head_width, 1, self.window.past]
        old = mb.slice_by_size(x=self.inputs[past], begin=[layer, 0, 0, 0], size=size)
        return mb.concat(values=[old, new], axis=3)


def scale_factors(scale: float) -> tuple[np.float16, np.float16]:
    """Two float16 numbers with the scale as their product, to 1e-6.

    1 / sqrt(d) is no float16 for d = 32 or 128: rounded alone it would be 1e-4 off.
    """
    start = np.float16(2.0 ** math.floor(math.log2(math.sqrt(scale))))
    candidates = start * (1 + np.arange(1024) / 1024)
    partners = (scale / candidates).astype(np.float16)
    best = int(np.argmin(np.abs(candidates * partners.astype(np.float64) - scale)))
    return np.float16(candidates[best]), partners[best]


def _apart(x: Any, parts: int, axis: int) -> list[Any]:
    return list(mb.split(x=x, num_splits=parts, axis=axis)) if parts > 1 else [x]
