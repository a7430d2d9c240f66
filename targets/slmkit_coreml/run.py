"""Run the artifact through the evaluator; what an app's host code does is done here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coremltools
import numpy as np
from numpy.typing import NDArray

from slmkit.host import EMPTY, Positions, StaticRunner, Window, rope_names, slots, visible
from slmkit.ops import Floats, Rope
from slmkit.target import Artifact
from slmkit_coreml.contract import HIDDEN, mask_name
from slmkit_coreml.embedding import Embedding
from slmkit_coreml.evaluator import Package


class CoremlRunner(StaticRunner):
    """Feeds tokens through ``prefill`` and ``decode``; keeps the cache as an app would."""

    def __init__(self, folder: Path, artifact: Artifact, precision: str) -> None:
        self.facts = artifact.facts
        self.runtime = f"evaluator over coremltools {coremltools.__version__}, {precision}"
        self.context_length = self.facts["context_length"]
        self.package = Package(folder / self.facts["package"], precision)
        self.embedding = Embedding(folder, self.facts["embedding"])
        rope = self.facts["rope"]
        self.rope = Rope(tuple(rope["frequencies"]), rope["magnitude"])
        self.functions = {each["tokens"]: name for name, each in self.facts["functions"].items()}
        self.sizes = tuple(self.functions)
        self.taps: dict[str, Floats] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the sequence."""
        width = self.facts["kv_heads"] * self.facts["head_width"]
        shape = (self.facts["layers"], width, 1, self.context_length)
        self.package.reset()
        self.keys, self.values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.length = 0

    def step(self, ids: NDArray[np.int64], window: Window) -> Floats:
        """Embeddings, tables, masks and past in; logits out, new keys and values kept."""
        count = len(ids)
        found = self.package.run(self.functions[window.tokens], self._inputs(ids, window))
        if self.facts["kv_cache"] == "io":
            here = slice(self.length, self.length + count)
            self.keys[..., here] = found["new_keys"][..., :count]
            self.values[..., here] = found["new_values"][..., :count]
        self.taps = {
            name: _tokens_first(found[output], count) for output, name in self.facts["taps"].items()
        }
        parts = [found[f"logits_{at}"] for at in range(self.facts["logits"])]
        return _tokens_first(np.concatenate(parts, axis=1), count)

    def _inputs(self, ids: NDArray[np.int64], window: Window) -> dict[str, Any]:
        filled = np.zeros(window.tokens, dtype=np.int64)
        filled[: len(ids)] = ids
        queries, keys = slots(window, self.length, len(ids))
        inputs = {"embeds": self.embedding.look_up(filled).T[None, :, None]}
        tables = self.rope.table(self.length + np.arange(window.tokens))
        for name, table in zip(rope_names(0), tables, strict=True):
            inputs[name] = table.T[None, None]
        if self.facts["kv_cache"] != "io":  # slot j of a state holds position j
            known = np.arange(window.total)
            keys = np.where(known < self.length + len(ids), known, EMPTY)
        for limit in self.facts["windows"]:
            inputs[mask_name(limit)] = _mask(queries, keys, limit)
        return {**inputs, **self._cache(window)}

    def _cache(self, window: Window) -> dict[str, Any]:
        """What the cache's form asks for."""
        if self.facts["kv_cache"] == "io":
            lines = {"past_keys": self.keys, "past_values": self.values}
            return {name: line[..., : window.past] for name, line in lines.items()}
        if self.facts["kv_cache"] == "state-slice":
            return {"position": np.array([self.length], np.int32)}
        here = self.length + np.arange(window.tokens)
        place = np.zeros((1, window.tokens, 1, window.total), np.float32)
        place[0, np.arange(window.tokens), 0, here] = 1
        return {"place": place, "keep": 1 - place.sum(axis=1, keepdims=True)}


def _mask(queries: Positions, keys: Positions, window: int | None) -> Floats:
    """0 where a token may look, HIDDEN elsewhere, [1, S, 1, T]."""
    seen = visible(queries, keys, window)
    return np.where(seen, np.float32(0), np.float32(HIDDEN)).T[None, :, None]


def _tokens_first(value: NDArray[Any], count: int) -> Floats:
    """[1, D, 1, T] -> (count, D)"""
    result: Floats = value[0, :, 0, :count].T.astype(np.float32)
    return result
