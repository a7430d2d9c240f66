"""Attention as the Neural Engine likes it: heads apart, key-major, softmax over channels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813

from slmkit.host import Window, rope_names
from slmkit.ops import Attention, Rope
from slmkit.target import Spec
from slmkit_coreml.contract import mask_name


@dataclass
class AttentionWriter:
    """Writes attention and rope; gathers the new keys and values."""

    spec: Spec
    window: Window
    inputs: dict[str, Any]  # the function's, by name
    cache: str = "io"
    ropes: list[Rope] = field(default_factory=list)
    new_keys: list[Any] = field(default_factory=list)
    new_values: list[Any] = field(default_factory=list)
    states: dict[str, Any] = field(default_factory=dict)  # what each state holds by now

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
        keys = mb.transpose(x=self._all("key", layer, new_k), perm=[0, 3, 2, 1])
        values = self._all("value", layer, new_v)
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

    def _all(self, part: str, layer: int, new: Any) -> Any:
        """The keys or values of a layer that a token may see. [1, G * d, 1, S]"""
        if self.cache == "io":
            old = self._row(self.inputs[f"past_{part}s"], layer, self.window.past)
            return mb.concat(values=[old, new], axis=3)
        state = self.inputs[f"{part}_cache"]
        if part not in self.states:  # read once: a second read may be merged with the first
            self.states[part] = mb.read_state(input=state)
        updated = self._updated(self.states[part], layer, new)
        self.states[part] = mb.coreml_update_state(state=state, value=updated)
        return self._row(self.states[part], layer, self.window.total)

    def _updated(self, held: Any, layer: int, new: Any) -> Any:
        """The state with the new keys or values of a layer in their slots."""
        width, total = self.spec.kv_heads * self.spec.head_width, self.window.total
        if self.cache == "state-slice":
            first, end = self._slots()
            begin = mb.concat(values=[np.array([layer, 0, 0], np.int32), first], axis=0)
            stop = mb.concat(values=[np.array([layer + 1, width, 1], np.int32), end], axis=0)
            return mb.slice_update(x=held, update=new, begin=begin, end=stop)
        kept = mb.mul(x=self._row(held, layer, total), y=self.inputs["keep"])
        placed = mb.einsum(values=(new, self.inputs["place"]), equation="nchw,nwhu->nchu")
        return mb.slice_update(
            x=held, update=mb.add(x=kept, y=placed), begin=[layer, 0, 0, 0],
            end=[layer + 1, width, 1, total],
        )  # fmt: skip

    def _slots(self) -> tuple[Any, Any]:
        """First slot of the new tokens, and the one after the last."""
        if "end" not in self.states:
            tokens = np.array([self.window.tokens], np.int32)
            self.states["end"] = mb.add(x=self.inputs["position"], y=tokens)
        return self.inputs["position"], self.states["end"]

    def _row(self, whole: Any, layer: int, tokens: int) -> Any:
        """One layer of a cache."""
        size = [1, self.spec.kv_heads * self.spec.head_width, 1, tokens]
        return mb.slice_by_size(x=whole, begin=[layer, 0, 0, 0], size=size)


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
