"""The ``litert`` artifact on a device without slmkit: an engine of ``slmkit.devices.payload``.

Needs NumPy and ai-edge-litert alone. Reads prompts as ``slmkit_litert.runner``
does, but for the logits of a chunk, whose tokens it decodes one by one.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

HIDDEN = -0.7 * 3.4028234663852886e38  # of the mask, as ``slmkit_litert.contract`` has it
FIRST = ("tokens", "input_pos", "mask")  # inputs that are no state


class LitertEngine:
    """One sequence's tokens and state in LiteRT's interpreter, with its own kernels (XNNPACK)."""

    def __init__(self, folder: Path, artifact: dict[str, Any], threads: int) -> None:
        self.runtime = f"ai-edge-litert {version('ai-edge-litert')}, XNNPACK, shipped weights"
        facts, state = artifact["facts"], artifact["state"]
        self.context, self.chunk = state["context_length"], facts["prefill"]
        self.whole = bool(state["states"])  # a state has no place for tokens that fill a chunk up
        path = folder / facts["model"]
        self.interpreter = Interpreter(model_path=str(path), num_threads=threads)
        names = {self.chunk: f"prefill_{self.chunk}", 1: "decode"}
        self.signatures = {
            size: self.interpreter.get_signature_runner(name) for size, name in names.items()
        }
        self.inputs = {size: each.get_input_details() for size, each in self.signatures.items()}
        self.reset()

    def reset(self) -> None:
        """Forget the sequence."""
        self.length = 0
        self.caches = {
            name: np.zeros(each["shape"], np.float32)
            for name, each in self.inputs[1].items()
            if name not in FIRST
        }

    def feed(self, ids: Any) -> Any:
        """Append tokens; their logits, (T,) -> (T, V): by decoding, since prefill makes none. What
        follows reads the cache that prefill has written."""
        rows: list[Any] = []
        while len(ids):
            size = self._fitting(len(ids))
            part, before, start = ids[:size], self.caches, self.length
            rows += [self._decode(token) for token in part]
            if size > 1:
                self._keep(self._run(size, part, start, before))
            ids = ids[size:]
        return np.stack(rows)

    def prefill(self, ids: Any) -> Any:
        """Append a prompt: all but its last token by prefill, that one by decode. (T,) -> (V,)"""
        body = ids[:-1]
        while len(body):
            size = self._fitting(len(body))
            self._keep(self._run(size, body[:size], self.length, self.caches))
            self.length += len(body[:size])
            body = body[size:]
        return self._decode(ids[-1])

    def _fitting(self, tokens: int) -> int:
        """The signature's size for so many tokens, as ``StaticRunner`` chooses it."""
        if self.whole and tokens < self.chunk:
            return 1
        fits = self.length + self.chunk <= self.context
        return self.chunk if tokens > 1 and fits else 1

    def _decode(self, token: int) -> Any:
        found = self._run(1, [token], self.length, self.caches)
        self._keep(found)
        self.length += 1
        return found["logits"][0, 0]

    def _keep(self, found: dict[str, Any]) -> None:
        self.caches = {name: found[name] for name in self.caches}

    def _run(self, size: int, ids: Any, position: int, caches: dict[str, Any]) -> dict[str, Any]:
        tokens = np.zeros((1, size), np.int32)
        tokens[0, : len(ids)] = ids
        positions = position + np.arange(size, dtype=np.int32)
        visible = np.arange(self.context)[None] <= positions[:, None]
        mask = np.where(visible, np.float32(0), np.float32(HIDDEN))[None, None]
        values = {"tokens": tokens, "input_pos": positions, "mask": mask, **caches}
        feeds = {name: values[name] for name in self.inputs[size]}
        found: dict[str, Any] = self.signatures[size](**feeds)
        return found


def open_engine(folder: Path, artifact: dict[str, Any], threads: int) -> LitertEngine:
    """Load the artifact, as it ships, from its folder."""
    return LitertEngine(folder, artifact, threads)
