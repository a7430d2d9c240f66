"""Run the .tflite by LiteRT's own interpreter: prefill chunks, cached decode."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from slmkit.backend.interface import Artifact
from slmkit.backend.static_runner import StaticRunner, Window
from slmkit.ops import Floats
from slmkit_litert.contract import DECODE, HIDDEN, cache_tensors, prefill_name, sizes_of
from slmkit_litert.lowering.weight_binding import Array, widen
from slmkit_litert.weights import dequantized

THREADS = 2
KERNELS = {"float32": "LiteRT's own kernels", "shipped": "XNNPACK"}


class LitertRunner(StaticRunner):
    """Feeds tokens through the signatures that LiteRT-LM uses.

    ``prefill`` gives no logits, so a chunk's come from decoding it token by token beside; what is
    kept is prefill's cache, and the tokens after it tell whether it is right.
    """

    def __init__(self, folder: Path, artifact: Artifact, mode: str) -> None:
        self.facts = facts = artifact.facts
        self.state = artifact.state
        self.context_length = artifact.state.context_length
        self.runtime = (
            f"ai-edge-litert {version('ai-edge-litert')}, {KERNELS[mode]}, {mode} weights"
        )
        self.interpreter = _opened(folder / facts["model"], mode)
        self.sizes, self.whole_chunks = (facts["prefill"], 1), bool(artifact.state.states)
        self.signatures = {
            tokens: self.interpreter.get_signature_runner(name)
            for tokens, name in ((facts["prefill"], prefill_name(facts["prefill"])), (1, DECODE))
        }
        self.taps: dict[str, Floats] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the sequence."""
        self.caches: dict[str, Array] = {
            each.name: np.zeros(sizes_of(each), np.float32) for each in cache_tensors(self.state)
        }
        self.length = 0

    def step(self, ids: NDArray[np.int64], window: Window) -> Floats:
        """Logits of every token; the cache as the signature of this window leaves it."""
        before, rows, taps = self.caches, [], []
        for at, token in enumerate(ids):
            found = self._run(1, np.array([token]), self.length + at, self.caches)
            self.caches = self._kept(found)
            rows.append(found["logits"][0, 0])
            taps.append({name: found[each][0] for each, name in self.facts["taps"].items()})
        if window.tokens > 1:
            self.caches = self._kept(self._run(window.tokens, ids, self.length, before))
        self.taps = {name: np.stack([each[name] for each in taps]) for name in taps[0]}
        return np.stack(rows)

    def _run(
        self, tokens: int, ids: NDArray[np.int64], position: int, caches: dict[str, Array]
    ) -> dict[str, Any]:
        filled = np.zeros((1, tokens), np.int32)
        filled[0, : len(ids)] = ids
        positions = position + np.arange(tokens, dtype=np.int32)
        mask = mask_of(positions, self.context_length)
        known = {"tokens": filled, "input_pos": positions, "mask": mask, **caches}
        signature = self.signatures[tokens]
        asked = signature.get_input_details()  # a model without attention asks for no mask
        found: dict[str, Any] = signature(**{name: known[name] for name in asked})
        return found

    def _kept(self, found: dict[str, Any]) -> dict[str, Array]:
        return {name: found[name] for name in self.caches}


def mask_of(positions: NDArray[Any], total: int) -> Floats:
    """0 where a token may look, HIDDEN elsewhere. [1, 1, T, S]"""
    seen = np.arange(total)[None] <= positions[:, None]
    return np.where(seen, np.float32(0), np.float32(HIDDEN))[None, None]


def _opened(path: Path, mode: str) -> Interpreter:
    """The file, or the same graph with its weights dequantized; mapped, the copy may then go.

    The copy runs without XNNPACK, which would pack all of it once more: 1.5 B parameters are 6 GB.
    """
    if mode != "float32":
        return Interpreter(model_path=str(path), num_threads=THREADS)
    with tempfile.TemporaryDirectory(prefix="slmkit-") as folder:
        wide = Path(folder) / "float32.tflite"
        widen(path, wide, dequantized)
        return Interpreter(
            model_path=str(wide),
            num_threads=THREADS,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
