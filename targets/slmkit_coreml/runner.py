"""Run the artifact as an app's host code would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import coremltools
import numpy as np
from numpy.typing import NDArray

from slmkit.backend.interface import Artifact
from slmkit.backend.memory import may_keep
from slmkit.backend.static_runner import EMPTY, StaticRunner, Window, rope_names, slots
from slmkit.ops import Floats, Positions, Rope, visible
from slmkit_coreml.contract import HIDDEN, mask_name, state_name, state_shape
from slmkit_coreml.embedding import Embedding
from slmkit_coreml.layout import LAYOUTS, Array
from slmkit_coreml.verify.device import DevicePackage, on_macos, system_name
from slmkit_coreml.verify.evaluator import Package, WeightCache


class Runnable(Protocol):
    """A loaded package, in the evaluator or in Core ML itself."""

    def run(self, name: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run a function; return its outputs by name."""
        ...

    def reset(self) -> None:
        """Discard the states."""
        ...


class CoremlRunner(StaticRunner):
    """Run tokens through ``prefill`` and ``decode``; keep KV cache and states as an app would."""

    def __init__(self, folder: Path, artifact: Artifact, precision: str) -> None:
        self.facts = facts = artifact.facts
        self.layout = LAYOUTS[facts["layout"]]
        self.state = artifact.state
        self.context_length = artifact.state.context_length
        self.chunks: list[Mapping[str, Any]] = facts["packages"]
        self.packages, self.runtime = self._open(folder, precision)
        self.embedding = None
        if not facts["self_contained"]:
            self.embedding = Embedding(folder, facts["embedding"])
        self.ropes = [
            Rope(tuple(each["frequencies"]), each["magnitude"]) for each in facts["ropes"]
        ]
        self.stateful, decode = facts["kv_cache"] != "io", facts["functions"]["decode"]
        self.slots = decode["tokens"] + decode["past"]
        self.functions = {each["tokens"]: name for name, each in facts["functions"].items()}
        self.sizes, self.whole_chunks = tuple(self.functions), bool(artifact.state.states)
        self.taps: dict[str, Floats] = {}
        self.reset()

    def reset(self) -> None:
        """Start a new sequence."""
        state = self.state
        row = self.layout.cache(state.kv_heads, state.head_width, self.context_length)
        shape = (len(state.attention_layers), *row)
        for package in self.packages:
            package.reset()
        self.past = {name: np.zeros(shape, np.float32) for name in ("keys", "values")}
        self.states = {
            state_name(each.kind, each.layer): np.zeros(state_shape(each), np.float32)
            for each in (() if self.stateful else state.states)
        }
        self.length = 0

    def step(self, ids: NDArray[np.int64], window: Window) -> Floats:
        """Run all packages on at most T tokens; return their logits. (n,) -> (n, V)"""
        count, function = len(ids), self.functions[window.tokens]
        if self.stateful:
            window = Window(window.tokens, self.slots - window.tokens)
        inputs = self._inputs(ids, window)
        inputs |= {f"past_{name}": state for name, state in self.states.items()}
        outputs: dict[str, Array] = {}
        for chunk, package in zip(self.chunks, self.packages, strict=True):
            outputs |= package.run(function, {**inputs, **self._past(chunk, window)})
            inputs["hidden"] = outputs.get("hidden_out", inputs.get("hidden"))
            self._append(chunk, outputs, count)
        self.states = {name: outputs[f"new_{name}"] for name in self.states}
        self.taps = {
            name: self._rows(outputs[output], count) for output, name in self.facts["taps"].items()
        }
        parts = [outputs[f"logits_{at}"] for at in range(self.facts["logits"])]
        return np.concatenate([self._rows(part, count) for part in parts], axis=1)

    def _open(self, folder: Path, precision: str) -> tuple[list[Runnable], str]:
        """Load the packages; also return the name of the runtime."""
        paths = [folder / chunk["package"] for chunk in self.chunks]
        names = list(self.facts["functions"])
        if precision == "float16" and on_macos():
            units = self.facts["compute_units"]
            return [DevicePackage(path, names, units) for path in paths], system_name(units)
        cache = WeightCache()
        about = f"evaluator over coremltools {coremltools.__version__}, {precision}"
        packages = [Package(path, precision, cache) for path in paths]
        cache.free_bytes = may_keep(cache.free_bytes)
        return list(packages), about

    def _inputs(self, ids: NDArray[np.int64], window: Window) -> dict[str, Any]:
        """The host's inputs for all packages; each reads those that it declares."""
        padded = np.zeros(window.tokens, dtype=np.int64)
        padded[: len(ids)] = ids
        position = {"position": np.array([self.length], np.int32)}
        if self.embedding is None:
            return {"ids": padded[None].astype(np.int32), **position}
        layout = self.layout
        inputs = {"embeds": layout.rows.from_rows(self.embedding.look_up(padded)), **position}
        positions = self.length + np.arange(window.tokens)
        for number, rope in enumerate(self.ropes):
            for name, table in zip(rope_names(number), rope.table(positions), strict=True):
                inputs[name] = layout.table.from_rows(table)
        queries, keys = slots(window, self.length, len(ids))
        if self.stateful:  # slot j of a state holds position j
            every_slot = np.arange(window.total)
            keys = np.where(every_slot < self.length + len(ids), every_slot, EMPTY)
        for limit in self.facts["windows"]:
            inputs[mask_name(limit)] = layout.mask.from_rows(_mask(queries, keys, limit))
        return {**inputs, **self._placement(window)}

    def _placement(self, window: Window) -> dict[str, Array]:
        """The inputs place and keep of the form ``state-blend``."""
        if self.facts["kv_cache"] != "state-blend":
            return {}
        place = np.zeros((window.tokens, window.total), np.float32)
        place[np.arange(window.tokens), self.length + np.arange(window.tokens)] = 1
        keep = 1 - place.sum(axis=0)
        return {
            "place": self.layout.place.from_rows(place),
            "keep": self.layout.keep.from_rows(keep),
        }

    def _past(self, chunk: Mapping[str, Any], window: Window) -> dict[str, Array]:
        """The KV cache of a chunk's layers, under the form ``io``."""
        if self.stateful:
            return {}
        layers = self._layers(chunk)
        slots_of_past = self._slots(slice(0, window.past))
        return {f"past_{name}": cache[layers][slots_of_past] for name, cache in self.past.items()}

    def _append(self, chunk: Mapping[str, Any], outputs: Mapping[str, Array], count: int) -> None:
        """Append the new keys and values of ``count`` tokens, under the form ``io``."""
        if self.stateful or not chunk["attention_layers"]:
            return
        target, source = slice(self.length, self.length + count), slice(0, count)
        for name, cache in self.past.items():
            new = outputs[f"new_{name}"][self._slots(source)]
            cache[self._layers(chunk)][self._slots(target)] = new

    def _layers(self, chunk: Mapping[str, Any]) -> slice:
        """The indices of a chunk's attention layers in the cache."""
        first = sum(layer < chunk["first_layer"] for layer in self.state.attention_layers)
        return slice(first, first + len(chunk["attention_layers"]))

    def _slots(self, tokens: slice) -> tuple[slice, ...]:
        """An index of these slots of a cache [layers, ...]."""
        axis = self.layout.token_axis
        return tuple(tokens if at == axis else slice(None) for at in range(4))

    def _rows(self, value: Array, count: int) -> Floats:
        """The rows of the first ``count`` tokens, float32. -> (count, D)"""
        rows: Floats = self.layout.rows.to_rows(value)[:count].astype(np.float32)
        return rows


def _mask(queries: Positions, keys: Positions, window: int | None) -> Floats:
    """0 where a token may look, HIDDEN elsewhere. (T, S)"""
    return np.where(visible(queries, keys, window), np.float32(0), np.float32(HIDDEN))
