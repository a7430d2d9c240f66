"""The KV cache of one function, in its three forms (``contract.py``)."""

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
    """Joins new keys and values with those of the past."""

    spec: Spec
    layout: Layout
    window: Window
    form: str
    given: dict[str, Any]  # inputs of the function, and what is computed of them, by name
    layers: Sequence[int]  # of the chunk, those with a cache: how they lie in it
    new: dict[str, list[Any]] = field(default_factory=lambda: {"key": [], "value": []})
    states: dict[str, Any] = field(default_factory=dict)  # what each state holds by now

    def joined(self, part: str, layer: int, new: Any) -> Any:
        """``part`` (key or value) of all S slots of a layer, as ``Layout.cache`` has it."""
        at = self.layers.index(layer)
        if self.form == "io":
            self.new[part].append(new)
            old = self._row(self.given[f"past_{part}s"], at, self.window.past)
            return mb.concat(values=[old, new], axis=self.layout.token_axis)
        state = self.given[f"{part}_cache"]
        if part not in self.states:  # read once: a second read may be merged with the first
            self.states[part] = mb.read_state(input=state)
        updated = self._updated(self.states[part], at, new)
        self.states[part] = mb.coreml_update_state(state=state, value=updated)
        return self._row(self.states[part], at, self.window.total)

    def outputs(self) -> list[Any]:
        """What the host appends, under ``io``."""
        return [
            mb.concat(values=new, axis=0, name=f"new_{part}s")
            for part, new in self.new.items()
            if new
        ]

    def _updated(self, held: Any, at: int, new: Any) -> Any:
        """The state with the new keys or values of a layer in their slots."""
        whole = self._shape(self.window.total)
        if self.form == "state-slice":
            first, end = self._slots()
            begin = self._corner(at, [0, 0, 0], first)
            stop = self._corner(at + 1, whole, end)
            return mb.slice_update(x=held, update=new, begin=begin, end=stop)
        kept = mb.mul(x=self._row(held, at, self.window.total), y=self.given["keep"])
        update = mb.add(x=kept, y=self._placed(new))
        return mb.slice_update(x=held, update=update, begin=[at, 0, 0, 0], end=[at + 1, *whole])

    def _placed(self, new: Any) -> Any:
        """The new keys or values in their slots, 0 elsewhere."""
        place = self.given["place"]
        if self.layout.name == "ane":
            return mb.einsum(values=(new, place), equation="nchw,nwhu->nchu")
        groups = mb.concat(values=[place] * self.spec.kv_heads, axis=1)
        return mb.matmul(x=groups, y=new)

    def _corner(self, at: int, sizes: Sequence[int], token: Any) -> Any:
        """A corner of a slice, with a number known at run time on the token axis."""
        corner = np.array([at, *sizes], np.int32)
        axis = self.layout.token_axis
        parts = [corner[:axis], token, corner[axis + 1 :]]
        values = [part for part in parts if not isinstance(part, np.ndarray) or len(part)]
        return mb.concat(values=values, axis=0)

    def _slots(self) -> tuple[Any, Any]:
        """First slot of the new tokens, and the one after the last."""
        if "end" not in self.states:
            tokens = np.array([self.window.tokens], np.int32)
            self.states["end"] = mb.add(x=self.given["position"], y=tokens)
        return self.given["position"], self.states["end"]

    def _row(self, whole: Any, at: int, tokens: int) -> Any:
        """One layer of a cache."""
        size = [1, *self._shape(tokens)]
        return mb.slice_by_size(x=whole, begin=[at, 0, 0, 0], size=size)

    def _shape(self, tokens: int) -> tuple[int, ...]:
        return self.layout.cache(self.spec.kv_heads, self.spec.head_width, tokens)
