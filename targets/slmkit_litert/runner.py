"""Runner of the .tflite in LiteRT's interpreter: prefill of chunks, decode with a KV cache."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.backend.artifact import file_of
from slmkit.backend.interface import Artifact
from slmkit.backend.static_runner import StaticRunner, Window, check_context
from slmkit.errors import BackendError
from slmkit.ops import Floats
from slmkit_litert.contract import (
    DECODE,
    HIDDEN,
    PROOF,
    cache_tensors,
    prefill_name,
    static_shape,
)
from slmkit_litert.lowering.weight_binding import Array
from slmkit_litert.verify.graphs import BUILT_IN, XNNPACK, FloatGraphs, StoredGraphs

RELEASE = f"ai-edge-litert {version('ai-edge-litert')}"
# Tokens of a chunk that take as long as one token of decode, which reads all weights for it.
CHEAPER = {XNNPACK: 16, BUILT_IN: 4}
SAME = 1e-5  # relative and absolute: between two graphs of the same operations


class LitertRunner(StaticRunner):
    """Feeds tokens through the signatures that LiteRT-LM uses; ``mode``: float32 or shipped.

    ``prefill`` returns no logits: those of a chunk are computed by the same graph with logits, of
    the proof alone, and those of a few tokens by decoding them one by one. Afterwards the cache is
    that of ``prefill``, which the logits of later tokens depend on and so verify.
    """

    def __init__(self, folder: Path, artifact: Artifact, mode: str) -> None:
        self.facts = facts = artifact.facts
        self.state = artifact.state
        self.context_length = artifact.state.context_length
        model = file_of(folder, facts["model"])
        # Older bundles have no such graph, and in debug builds decode has the taps.
        proof = facts.get("proof")
        self._proof = file_of(folder, proof) if proof and not facts["taps"] else None
        self.prefill_name = prefill_name(facts["prefill"])
        graphs = FloatGraphs if mode == "float32" else StoredGraphs
        self.graphs = graphs(model, self._proof)
        self.mode = mode
        self.runtime = self._about()
        self.sizes, self.whole_chunks = (facts["prefill"], 1), bool(artifact.state.states)
        self.taps: dict[str, Floats] = {}
        self.reset()

    @property
    def parts(self) -> int:
        """Parts of the model, of which one may be held at a time; taps are made by all of them."""
        return 1 if self.facts["taps"] else self.graphs.parts

    def open_part(self, number: int) -> None:
        """Hold one part alone; all is forgotten."""
        self.graphs.open_part(number)
        self.runtime = self._about()
        self.reset()

    def _about(self) -> str:
        """LiteRT's version, the kernels and the weights."""
        return f"{RELEASE}, {self.graphs.kernels}, {self.mode} weights"

    def reset(self) -> None:
        """Forget the sequence."""
        self.caches: dict[str, Array] = {
            tensor.name: np.zeros(static_shape(tensor), np.float32)
            for tensor in cache_tensors(self.state)
        }
        self.length = 0

    def step(self, ids: NDArray[np.int64], window: Window) -> Floats:
        """Logits of every token, (T, V); updates the caches by the signature of this window."""
        if self._proof and 1 < window.tokens <= CHEAPER[self.graphs.kernels] * len(ids):
            return self._chunk(ids, window.tokens)
        caches_before, rows, taps = self.caches, [], []
        for index, token in enumerate(ids):
            outputs = self._run(DECODE, 1, np.array([token]), self.length + index)
            self.caches = self._caches(outputs)
            rows.append(outputs["logits"][0, 0])
            taps.append({tap: outputs[name][0] for name, tap in self.facts["taps"].items()})
        if window.tokens > 1:
            self.caches = caches_before
            self._prefill(ids, window.tokens)
        self.taps = {tap: np.stack([row[tap] for row in taps]) for tap in taps[0]}
        return np.stack(rows)

    def _chunk(self, ids: NDArray[np.int64], tokens: int) -> Floats:
        """Logits of a chunk by the graph of the proof; the caches are those of ``prefill``.

        Raises BackendError if the two leave other caches.
        """
        proved = self._run(PROOF, tokens, ids, self.length)
        filled = self._run(self.prefill_name, tokens, ids, self.length)
        self.caches = self._caches(filled)
        for name in self.caches.keys() & (proved.keys() | filled.keys()):
            same = name in proved and name in filled  # both are made in the same part
            if not same or not np.allclose(filled[name], proved[name], SAME, SAME, equal_nan=True):
                raise BackendError(
                    f"prefill leaves another {name} than the same graph with logits",
                    "please report this",
                )
        logits: Floats = proved["logits"][0, : len(ids)]
        return logits

    def _prefill(self, ids: NDArray[np.int64], tokens: int) -> None:
        self.caches = self._caches(self._run(self.prefill_name, tokens, ids, self.length))

    def prefill(self, ids: NDArray[np.int64]) -> Floats:
        """Append a prompt as LiteRT-LM does: all but its last token by ``prefill``, which makes no
        logits, then that one by ``decode``. (T,) -> (V,)"""
        check_context(self.length + len(ids), self.context_length)
        body = ids[:-1]
        while len(body):
            size = self._fitting(len(body))
            name = self.prefill_name if size > 1 else DECODE
            self.caches = self._caches(self._run(name, size, body[:size], self.length))
            self.length += len(body[:size])
            body = body[size:]
        outputs = self._run(DECODE, 1, ids[-1:], self.length)
        self.caches = self._caches(outputs)
        self.length += 1
        logits: Floats = outputs["logits"][0, 0]
        return logits

    def _run(self, name: str, tokens: int, ids: NDArray[np.int64], position: int) -> dict[str, Any]:
        """Outputs of a signature for ``tokens`` tokens, the first at ``position``."""
        padded = np.zeros((1, tokens), np.int32)
        padded[0, : len(ids)] = ids
        positions = position + np.arange(tokens, dtype=np.int32)
        mask = causal_mask(positions, self.context_length)
        inputs = {"tokens": padded, "input_pos": positions, "mask": mask, **self.caches}
        outputs: dict[str, Any] = self.graphs.call(name, inputs)
        outputs.setdefault("logits", np.zeros((1, tokens, 0), np.float32))  # of the last part alone
        return outputs

    def _caches(self, outputs: dict[str, Any]) -> dict[str, Array]:
        """KV cache and states, with those among a signature's outputs: all, of a whole model."""
        return {name: outputs.get(name, old) for name, old in self.caches.items()}


def causal_mask(positions: NDArray[Any], total: int) -> Floats:
    """0 at slots up to a token's position, HIDDEN at later ones. (T,) -> [1, 1, T, S]"""
    visible = np.arange(total)[None] <= positions[:, None]
    return np.where(visible, np.float32(0), np.float32(HIDDEN))[None, None]
