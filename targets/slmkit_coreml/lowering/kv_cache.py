"""The KV cache of one function, in the three forms that ``contract.py`` describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813

from slmkit.backend.interface import Spec
from slmkit.backend.static_runner import Window
from slmkit_coreml.layout import Layout


@dataclass
class CacheWriter:
    """Append new keys and values to those of the past."""

    spec: Spec
    layout: Layout
    window: Window
    form: str
    inputs: dict[str, Any]  # of ``prepare_inputs``
    layers: Sequence[int]  # the chunk's layers with a cache, in its order
    new: dict[str, list[Any]] = field(default_factory=lambda: {"key": [], "value": []})
    states: dict[str, Any] = field(default_factory=dict)  # current value of each state

    def append(self, part: str, layer: int, new: Any) -> Any:
        """Append a layer's new keys or values; return those of all S slots.

        ``part``: "key" or "value". Shapes are those of ``Layout.cache``.
        """
        at = self.layers.index(layer)
        if self.form == "io":
            self.new[part].append(new)
            past = self._layer(self.inputs[f"past_{part}s"], at, self.window.past)
            return mb.concat(values=[past, new], axis=self.layout.token_axis)
        state = self.inputs[f"{part}_cache"]
        if part not in self.states:  # read once: a second read may be merged with the first
            self.states[part] = mb.read_state(input=state)
        updated = self._update_layer(self.states[part], at, new)
        self.states[part] = mb.coreml_update_state(state=state, value=updated)
        return self._layer(self.states[part], at, self.window.total)

    def outputs(self) -> list[Any]:
        """New keys and values of all layers for the host to append; none in the state forms."""
        return [
            mb.concat(values=new, axis=0, name=f"new_{part}s")
            for part, new in self.new.items()
            if new
        ]

    def _update_layer(self, state: Any, at: int, new: Any) -> Any:
        """The state with the new keys or values of a layer written into their slots."""
        shape = self._shape(self.window.total)
        if self.form == "state-slice":
            first, end = self._slot_range()
            begin = self._corner(at, [0, 0, 0], first)
            stop = self._corner(at + 1, shape, end)
            return mb.slice_update(x=state, update=new, begin=begin, end=stop)
        other_slots = mb.mul(x=self._layer(state, at, self.window.total), y=self.inputs["keep"])
        update = mb.add(x=other_slots, y=self._place_new(new))
        return mb.slice_update(x=state, update=update, begin=[at, 0, 0, 0], end=[at + 1, *shape])

    def _place_new(self, new: Any) -> Any:
        """The new keys or values in their slots, 0 elsewhere."""
        place = self.inputs["place"]
        if self.layout.name == "ane":
            return mb.einsum(values=(new, place), equation="nchw,nwhu->nchu")
        groups = mb.concat(values=[place] * self.spec.kv_heads, axis=1)
        return mb.matmul(x=groups, y=new)

    def _corner(self, at: int, sizes: Sequence[int], token: Any) -> Any:
        """A corner of a slice; its index on the token axis is computed at run time."""
        corner = np.array([at, *sizes], np.int32)
        axis = self.layout.token_axis
        parts = [corner[:axis], token, corner[axis + 1 :]]
        values = [part for part in parts if not isinstance(part, np.ndarray) or len(part)]
        return mb.concat(values=values, axis=0)

    def _slot_range(self) -> tuple[Any, Any]:
        """The first slot of the new tokens, and the slot after the last one."""
        if "end" not in self.states:
            tokens = np.array([self.window.tokens], np.int32)
            self.states["end"] = mb.add(x=self.inputs["position"], y=tokens)
        return self.inputs["position"], self.states["end"]

    def _layer(self, cache: Any, at: int, tokens: int) -> Any:
        """One layer of a cache."""
        size = [1, *self._shape(tokens)]
        return mb.slice_by_size(x=cache, begin=[at, 0, 0, 0], size=size)

    def _shape(self, tokens: int) -> tuple[int, ...]:
        return self.layout.cache(self.spec.kv_heads, self.spec.head_width, tokens)
