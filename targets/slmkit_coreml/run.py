"""Run the artifact through the evaluator; what an app's host code does is done here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coremltools
import numpy as np
from numpy.typing import NDArray

from slmkit.errors import BackendError
from slmkit.ops import Floats, Rope
from slmkit.target import Artifact
from slmkit_coreml.contract import HIDDEN, Window, mask_name, rope_names
from slmkit_coreml.embedding import Embedding
from slmkit_coreml.evaluator import Package
from slmkit_coreml.ops import TAP

EMPTY = -1  # the position of a slot that holds no token


class CoremlRunner:
    """Feeds tokens through ``prefill`` and ``decode``; keeps the cache as an app would."""

    def __init__(self, folder: Path, artifact: Artifact, precision: str) -> None:
        self.facts = artifact.facts
        self.runtime = f"evaluator over coremltools {coremltools.__version__}, {precision}"
        self.context_length: int = self.facts["context_length"]
        self.package = Package(folder / self.facts["package"], precision)
        self.embedding = Embedding(folder, self.facts["embedding"])
        rope = self.facts["rope"]
        self.rope = Rope(tuple(rope["frequencies"]), rope["magnitude"])
        self.functions = {each["tokens"]: name for name, each in self.facts["functions"].items()}
        self.taps: dict[str, Floats] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the sequence."""
        width = self.facts["kv_heads"] * self.facts["head_width"]
        shape = (self.facts["layers"], width, 1, self.context_length)
        self.package.reset()
        self.keys, self.values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.length = 0

    def feed(self, ids: NDArray[np.int64]) -> Floats:
        """Append tokens; their logits, (T, V). Raises BackendError beyond the context."""
        if self.length + len(ids) > self.context_length:
            raise BackendError(
                f"the sequence of {self.length + len(ids)} tokens passes the artifact's context of "
                f"{self.context_length}",
                "build with a larger --context, or shorten the prompt",
            )
        logits = []
        while len(ids):
            size = self._fitting(len(ids))
            logits.append(self._step(ids[:size], size))
            ids = ids[size:]
        return np.concatenate(logits)

    def _fitting(self, tokens: int) -> int:
        """prefill for several tokens while its past holds what is known, else decode."""
        most = max(self.functions)
        return most if tokens > 1 and self.length + most <= self.context_length else 1

    def _step(self, ids: NDArray[np.int64], size: int) -> Floats:
        window, count = Window(size, self.context_length - size), len(ids)
        found = self.package.run(self.functions[size], self._inputs(ids, window))
        if self.facts["kv_cache"] == "io":
            here = slice(self.length, self.length + count)
            self.keys[..., here] = found["new_keys"][..., :count]
            self.values[..., here] = found["new_values"][..., :count]
        self.length += count
        self.taps = {
            name: _tokens_first(value, count)
            for name, value in found.items()
            if name.startswith(TAP)
        }
        parts = [found[f"logits_{at}"] for at in range(self.facts["logits"])]
        return _tokens_first(np.concatenate(parts, axis=1), count)

    def _inputs(self, ids: NDArray[np.int64], window: Window) -> dict[str, Any]:
        filled = np.zeros(window.tokens, dtype=np.int64)
        filled[: len(ids)] = ids
        positions = self.length + np.arange(window.tokens)
        inputs = {"embeds": self.embedding.look_up(filled).T[None, :, None]}
        for name, table in zip(rope_names(0), self.rope.table(positions), strict=True):
            inputs[name] = table.T[None, None]
        cache, slots = self._cache(window, positions)
        for limit in self.facts["windows"]:
            inputs[mask_name(limit)] = _mask(slots, positions, limit)
        return {**inputs, **cache}

    def _cache(
        self, window: Window, positions: NDArray[np.int64]
    ) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """What the cache's form asks for, and the position that each of the S slots holds."""
        if self.facts["kv_cache"] == "io":
            past = np.arange(window.past)
            slots = np.concatenate([np.where(past < self.length, past, EMPTY), positions])
            lines = {"past_keys": self.keys, "past_values": self.values}
            return {name: line[..., : window.past] for name, line in lines.items()}, slots
        slots = np.arange(window.total)
        slots = np.where(slots <= positions[-1], slots, EMPTY)
        if self.facts["kv_cache"] == "state-slice":
            return {"position": np.array([self.length], np.int32)}, slots
        place = np.zeros((1, window.tokens, 1, window.total), np.float32)
        place[0, np.arange(window.tokens), 0, positions] = 1
        return {"place": place, "keep": 1 - place.sum(axis=1, keepdims=True)}, slots


def _mask(slots: NDArray[Any], positions: NDArray[Any], window: int | None) -> Floats:
    """0 where a token may look, HIDDEN elsewhere, [1, S, 1, T]."""
    distance = positions[None, :] - slots[:, None]
    seen = (distance >= 0) & (slots[:, None] != EMPTY)
    if window is not None:
        seen &= distance < window
    return np.where(seen, np.float32(0), np.float32(HIDDEN))[None, :, None]


def _tokens_first(value: NDArray[Any], count: int) -> Floats:
    """[1, D, 1, T] -> (count, D)"""
    result: Floats = value[0, :, 0, :count].T.astype(np.float32)
    return result
