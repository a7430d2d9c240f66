"""The inputs of a function, and those that a self-contained package computes by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import types

from slmkit.backend.interface import Model, Spec
from slmkit.backend.partition import Part
from slmkit.backend.static_runner import Window, rope_names
from slmkit.ops import Rope
from slmkit_coreml.contract import HIDDEN, kept_shape, mask_name, state_name, state_shape
from slmkit_coreml.layout import Arrangement
from slmkit_coreml.lowering.weights import share
from slmkit_coreml.options import Form

INTEGER_INPUTS = ("ids", "position")
EMPTY_POSITION = 2**30  # of an empty slot: after every token, so that none sees it


@dataclass(frozen=True)
class FunctionSignature:
    """One function of one chunk: its model, form and window, and from these its inputs."""

    model: Model
    form: Form
    chunk: Part
    window: Window

    @property
    def spec(self) -> Spec:
        """The model's spec."""
        return self.model.spec

    @property
    def layers(self) -> range:
        """The layers of the chunk."""
        return self.chunk.layers(self.spec.layers)

    @property
    def attention_layers(self) -> list[int]:
        """The layers of the chunk that have a KV cache."""
        return [layer for layer in self.model.attention_layers if layer in self.layers]

    @property
    def windows(self) -> list[int | None]:
        """The distinct sliding windows of the chunk's layers; each has its own mask."""
        return list(dict.fromkeys(self.spec.windows[layer] for layer in self.attention_layers))

    @property
    def ropes(self) -> dict[int, Rope]:
        """The distinct ropes of the chunk's layers, by their numbers in the whole model."""
        used = {self.spec.rope_at(layer) for layer in self.attention_layers}
        return {at: rope for at, rope in enumerate(self.spec.ropes) if rope in used}

    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every input by name; names of Core ML states end in _cache."""
        form, spec, tokens = self.form, self.spec, self.window.tokens
        rows = form.layout.rows.shape(tokens, spec.width)
        if self.chunk.first:
            first = {"hidden": rows}
        else:
            first = {"ids": (1, tokens)} if form.self_contained else {"embeds": rows}
        if not self.attention_layers:
            return {**first, **self._states()}
        kept = {**self._caches(), **self._states()}
        if form.self_contained:
            return {**first, "position": (1,), **kept}
        tables = {
            name: form.layout.table.shape(tokens, rope.width // 2)
            for number, rope in self.ropes.items()
            for name in rope_names(number)
        }
        mask = form.layout.mask.shape(tokens, self.window.total)
        masks = {mask_name(window): mask for window in self.windows}
        return {**first, **tables, **masks, **kept, **self._placement()}

    def _states(self) -> dict[str, tuple[int, ...]]:
        here = [each for each in self.model.states if each.layer in self.layers]
        if self.form.stateful:
            return {f"{state_name(each.kind, each.layer)}_cache": kept_shape(each) for each in here}
        return {f"past_{state_name(each.kind, each.layer)}": state_shape(each) for each in here}

    def _caches(self) -> dict[str, tuple[int, ...]]:
        stateful = self.form.stateful
        tokens = self.window.total if stateful else self.window.past
        names = ("key_cache", "value_cache") if stateful else ("past_keys", "past_values")
        row = self.form.layout.cache(self.spec.kv_heads, self.spec.head_width, tokens)
        return dict.fromkeys(names, (len(self.attention_layers), *row))

    def _placement(self) -> dict[str, tuple[int, ...]]:
        layout, tokens, total = self.form.layout, self.window.tokens, self.window.total
        if self.form.cache == "state-slice":
            return {"position": (1,)}
        if self.form.cache == "state-blend":
            return {"keep": layout.keep.shape(total), "place": layout.place.shape(tokens, total)}
        return {}


def placeholder(name: str, shape: tuple[int, ...]) -> Any:
    """The declaration of an input, or of a state for names that end in _cache."""
    if name.endswith("_cache"):
        return mb.StateTensorSpec(shape, dtype=types.fp16)
    return mb.TensorSpec(shape, dtype=types.int32 if name in INTEGER_INPUTS else types.fp16)


def prepare_inputs(signature: FunctionSignature, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A function's inputs by name.

    Those of a self-contained package are completed with cos, sin, masks and the placement of new
    tokens, computed from the position.
    """
    known = dict(inputs)
    if not signature.form.self_contained or not signature.attention_layers:
        return known
    layout, window, position = signature.form.layout, signature.window, known["position"]
    queries = mb.add(x=position, y=np.arange(window.tokens, dtype=np.int32))
    for number, rope in signature.ropes.items():
        tables = rope.table(np.arange(window.total))
        for name, table in zip(rope_names(number), tables, strict=True):
            full_table = share(mb.const(val=table), f"{name} table")
            rows = mb.gather(x=full_table, indices=queries, axis=0)
            known[name] = apply_arrangement(mb.cast(x=rows, dtype="fp16"), layout.table)
    keys = _key_positions(signature, position, queries)
    distance = mb.sub(x=mb.expand_dims(x=queries, axes=[1]), y=mb.expand_dims(x=keys, axes=[0]))
    for limit in signature.windows:
        known[mask_name(limit)] = apply_arrangement(_mask(distance, limit), layout.mask)
    if signature.form.cache == "state-blend":
        place = mb.cast(x=mb.equal(x=distance, y=np.int32(0)), dtype="fp16")
        known["place"] = apply_arrangement(place, layout.place)
        known["keep"] = apply_arrangement(_keep(position, window), layout.keep)
    return known


def apply_arrangement(rows: Any, arrangement: Arrangement) -> Any:
    """Arrange a variable of rows as the layout has it."""
    if arrangement.order != tuple(range(len(arrangement.order))):
        rows = mb.transpose(x=rows, perm=list(arrangement.order))
    return mb.expand_dims(x=rows, axes=list(arrangement.ones))


def _key_positions(signature: FunctionSignature, position: Any, queries: Any) -> Any:
    """The position of the token in each of the S slots. [S]

    Under ``io`` the past precedes the new tokens; in a state slot j holds position j.
    """
    if signature.form.stateful:
        return share(mb.const(val=np.arange(signature.window.total, dtype=np.int32)), "slots")
    past = np.arange(signature.window.past, dtype=np.int32)
    filled = mb.less(x=past, y=position)
    empty = np.full(len(past), EMPTY_POSITION, np.int32)
    return mb.concat(values=[mb.select(cond=filled, a=past, b=empty), queries], axis=0)


def _keep(position: Any, window: Window) -> Any:
    """0 in the slots of the new tokens, 1 elsewhere. [S]"""
    slots = np.arange(window.total, dtype=np.int32)
    end = mb.add(x=position, y=np.array([window.tokens], np.int32))
    before, after = mb.less(x=slots, y=position), mb.greater_equal(x=slots, y=end)
    return mb.cast(x=mb.logical_or(x=before, y=after), dtype="fp16")


def _mask(distance: Any, window: int | None) -> Any:
    """0 where a token may look, HIDDEN elsewhere. [T, S]"""
    visible = mb.greater_equal(x=distance, y=np.int32(0))
    if window is not None:
        visible = mb.logical_and(x=visible, y=mb.less(x=distance, y=np.int32(window)))
    invisible = mb.cast(x=mb.logical_not(x=visible), dtype="fp16")
    return mb.mul(x=invisible, y=np.float16(HIDDEN))
