"""The ``ort`` artifact on a device without slmkit: an engine of ``slmkit.devices.payload``.

Needs NumPy and onnxruntime alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

CHUNK = 128  # most tokens of a prompt that are fed at once
FIRST = ("input_ids", "attention_mask")  # inputs that are no state


class OrtEngine:
    """One sequence's tokens and state in ONNX Runtime on the CPU."""

    def __init__(self, folder: Path, artifact: dict[str, Any], threads: int) -> None:
        self.runtime = f"onnxruntime {onnxruntime.__version__}, CPU"
        facts = artifact["facts"]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        for key, value in facts.get("session_options", {}).items():
            options.add_session_config_entry(key, value)
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
        self.session = onnxruntime.InferenceSession(
            str(folder / facts["model"]), options, providers=["CPUExecutionProvider"]
        )
        self.outputs = [each["name"] for each in artifact["outputs"]]
        inputs = [each for each in artifact["inputs"] if each["name"] not in FIRST]
        self.masked = any(each["name"] == FIRST[1] for each in artifact["inputs"])
        # A state's output stands where its input does: after the logits.
        self.states = list(zip(inputs, self.outputs[1:], strict=True))
        self.logits_from = facts.get("logits_from")
        self.reset()

    def reset(self) -> None:
        """Start a new sequence: states of zeros, caches of no tokens."""
        self.length = 0
        self.past = {
            each["name"]: np.zeros(
                [1, *(0 if isinstance(size, str) else size for size in each["shape"][1:])],
                each["dtype"],
            )
            for each, _ in self.states
        }

    def feed(self, ids: Any) -> Any:
        """Append tokens; their logits. (T,) -> (T, V)"""
        every = {} if self.logits_from is None else {self.logits_from: np.zeros(1, np.int64)}
        return self._run(ids, every)

    def prefill(self, ids: Any) -> Any:
        """Append a prompt; the logits of its last token, (V,)."""
        for at in range(0, len(ids), CHUNK):
            logits = self._run(ids[at : at + CHUNK], {})
        return logits[-1]

    def _run(self, ids: Any, asked: dict[str, Any]) -> Any:
        """Append tokens; the logits that are asked for, or that the graph chooses. (rows, V)"""
        self.length += len(ids)
        feeds = {FIRST[0]: np.asarray(ids, np.int64)[None], **self.past, **asked}
        if self.masked:
            feeds[FIRST[1]] = np.ones((1, self.length), np.int64)
        found = dict(zip(self.outputs, self.session.run(self.outputs, feeds), strict=True))
        self.past = {each["name"]: found[present] for each, present in self.states}
        return found["logits"][0]


def open_engine(folder: Path, artifact: dict[str, Any], threads: int) -> OrtEngine:
    """Load the artifact, as it ships, from its folder."""
    return OrtEngine(folder, artifact, threads)
