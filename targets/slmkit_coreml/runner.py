"""Run the artifact; what an app's host code does is done here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import coremltools
import numpy as np
from numpy.typing import NDArray

from slmkit.backend.interface import Artifact
from slmkit.backend.static_runner import EMPTY, StaticRunner, Window, rope_names, slots
from slmkit.ops import Floats, Positions, Rope, visible
from slmkit_coreml.contract import HIDDEN, mask_name, state_name, state_shape
from slmkit_coreml.embedding import Embedding
from slmkit_coreml.layout import LAYOUTS, Array
from slmkit_coreml.verify.device import DevicePackage, on_macos, system_name
from slmkit_coreml.verify.evaluator import Package, WeightCache


class Runnable(Protocol):
    """A loaded package: in the evaluator, or in Core ML itself."""

    def run(self, name: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of a function by name."""
        ...

    def reset(self) -> None:
        """Forget what the states hold."""
        ...


class CoremlRunner(StaticRunner):
    """Feeds tokens through ``prefill`` and ``decode``; keeps the cache as an app would."""

    def __init__(self, folder: Path, artifact: Artifact, precision: str) -> None:
        self.facts = facts = artifact.facts
        self.layout = LAYOUTS[facts["layout"]]
        self.state = artifact.state
        self.context_length = artifact.state.context_length
        self.chunks: list[Mapping[str, Any]] = facts["packages"]
        self.packages, self.runtime = self._open(folder, precision)
        whole = facts["self_contained"]
        self.embedding = None if whole else Embedding(folder, facts["embedding"])
        self.ropes = [
            Rope(tuple(each["frequencies"]), each["magnitude"]) for each in facts["ropes"]
        ]
        self.functions = {each["tokens"]: name for name, each in facts["functions"].items()}
        self.sizes, self.whole_chunks = tuple(self.functions), bool(artifact.state.states)
        self.taps: dict[str, Floats] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the sequence."""
        state = self.state
        row = self.layout.cache(state.kv_heads, state.head_width, self.context_length)
        shape = (len(state.attention_layers), *row)
        for package in self.packages:
            package.reset()
        self.past = {name: np.zeros(shape, np.float32) for name in ("keys", "values")}
        self.states = {
            state_name(each.kind, each.layer): np.zeros(state_shape(each), np.float32)
            for each in state.states
        }
        self.length = 0

    def step(self, ids: NDArray[np.int64], window: Window) -> Floats:
        """The host's part in; the packages one after the other; logits out, the cache extended."""
        count, function = len(ids), self.functions[window.tokens]
        known = self._inputs(ids, window)
        known |= {f"past_{name}": state for name, state in self.states.items()}
        found: dict[str, Array] = {}
        for chunk, package in zip(self.chunks, self.packages, strict=True):
            found |= package.run(function, {**known, **self._cache(chunk, window)})
            known["hidden"] = found.get("hidden_out", known.get("hidden"))
            self._append(chunk, found, count)
        self.states = {name: found[f"new_{name}"] for name in self.states}
        self.taps = {
            name: self._back(found[output], count) for output, name in self.facts["taps"].items()
        }
        parts = [found[f"logits_{at}"] for at in range(self.facts["logits"])]
        return np.concatenate([self._back(part, count) for part in parts], axis=1)

    def _open(self, folder: Path, precision: str) -> tuple[list[Runnable], str]:
        paths = [folder / chunk["package"] for chunk in self.chunks]
        names = list(self.facts["functions"])
        if precision == "float16" and on_macos():
            units = self.facts["compute_units"]
            return [DevicePackage(path, names, units) for path in paths], system_name(units)
        cache = WeightCache()
        about = f"evaluator over coremltools {coremltools.__version__}, {precision}"
        return [Package(path, precision, cache) for path in paths], about

    def _inputs(self, ids: NDArray[np.int64], window: Window) -> dict[str, Any]:
        """What the host gives every package; each takes what it asks for."""
        filled = np.zeros(window.tokens, dtype=np.int64)
        filled[: len(ids)] = ids
        position = {"position": np.array([self.length], np.int32)}
        if self.embedding is None:
            return {"ids": filled[None].astype(np.int32), **position}
        layout = self.layout
        inputs = {"embeds": layout.rows.array(self.embedding.look_up(filled)), **position}
        positions = self.length + np.arange(window.tokens)
        for number, rope in enumerate(self.ropes):
            for name, table in zip(rope_names(number), rope.table(positions), strict=True):
                inputs[name] = layout.table.array(table)
        queries, keys = slots(window, self.length, len(ids))
        if self.facts["kv_cache"] != "io":  # slot j of a state holds position j
            known = np.arange(window.total)
            keys = np.where(known < self.length + len(ids), known, EMPTY)
        for limit in self.facts["windows"]:
            inputs[mask_name(limit)] = layout.mask.array(_mask(queries, keys, limit))
        return {**inputs, **self._places(window)}

    def _places(self, window: Window) -> dict[str, Array]:
        """Where the cache is written, under ``state-blend``."""
        if self.facts["kv_cache"] != "state-blend":
            return {}
        place = np.zeros((window.tokens, window.total), np.float32)
        place[np.arange(window.tokens), self.length + np.arange(window.tokens)] = 1
        keep = 1 - place.sum(axis=0)
        return {"place": self.layout.place.array(place), "keep": self.layout.keep.array(keep)}

    def _cache(self, chunk: Mapping[str, Any], window: Window) -> dict[str, Array]:
        """The past of a chunk's layers, where the host keeps it."""
        if self.facts["kv_cache"] != "io":
            return {}
        layers = self._layers(chunk)
        past = self._slots(slice(0, window.past))
        return {f"past_{name}": line[layers][past] for name, line in self.past.items()}

    def _append(self, chunk: Mapping[str, Any], found: Mapping[str, Array], count: int) -> None:
        if self.facts["kv_cache"] != "io" or not chunk["attention_layers"]:
            return
        here = self._slots(slice(self.length, self.length + count))
        for name, line in self.past.items():
            line[self._layers(chunk)][here] = found[f"new_{name}"][self._slots(slice(0, count))]

    def _layers(self, chunk: Mapping[str, Any]) -> slice:
        """Where the cache has a chunk's layers, among all that attend."""
        first = sum(layer < chunk["first_layer"] for layer in self.state.attention_layers)
        return slice(first, first + len(chunk["attention_layers"]))

    def _slots(self, tokens: slice) -> tuple[slice, ...]:
        """Some slots of a cache [layers, ...]."""
        axis = self.layout.token_axis
        return tuple(tokens if at == axis else slice(None) for at in range(4))

    def _back(self, value: Array, count: int) -> Floats:
        """The rows of the first tokens, float32."""
        rows: Floats = self.layout.rows.back(value)[:count].astype(np.float32)
        return rows


def _mask(queries: Positions, keys: Positions, window: int | None) -> Floats:
    """0 where a token may look, HIDDEN elsewhere. (T, S)"""
    return np.where(visible(queries, keys, window), np.float32(0), np.float32(HIDDEN))
