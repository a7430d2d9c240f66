"""The ``coreml`` artifact on a Mac without slmkit: an engine of ``slmkit.devices.payload``.

Needs NumPy and coremltools alone. Feeds the packages as ``slmkit_coreml.runner`` does, for the form
that keeps its cache and computes its own embeddings. Never executed in Core ML itself.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import coremltools
import numpy as np


class CoremlEngine:
    """One sequence's tokens in Core ML: a model for each function of each package, and a state."""

    def __init__(self, folder: Path, artifact: dict[str, Any], threads: int) -> None:
        facts, state = artifact["facts"], artifact["state"]
        if not facts["self_contained"] or facts["kv_cache"] == "io":
            raise SystemExit("this form of the package leaves work to an app: only the app runs it")
        units = facts["compute_units"]
        self.runtime = f"Core ML of macOS {platform.mac_ver()[0]}, {units}"
        self.context = state["context_length"]
        self.whole = bool(state["states"])  # a state has no place for tokens that fill a chunk up
        self.tokens_first = facts["layout"] == "gpu"  # logits (1, T, V); else (1, V, 1, T)
        self.parts = [f"logits_{at}" for at in range(facts["logits"])]
        self.sizes = {each["tokens"]: name for name, each in facts["functions"].items()}
        paths = [str(folder / each["package"]) for each in facts["packages"]]
        chosen = coremltools.ComputeUnit[units.upper()]
        self.packages = [
            {
                size: coremltools.models.MLModel(path, compute_units=chosen, function_name=name)
                for size, name in self.sizes.items()
            }
            for path in paths
        ]
        self.inputs = [_inputs(path) for path in paths]
        self.reset()

    def reset(self) -> None:
        """Start a new sequence: a fresh state for each package that keeps one."""
        self.length = 0
        self.states = [
            package[1].make_state() if stateful else None
            for package, (_, stateful) in zip(self.packages, self.inputs, strict=True)
        ]

    def feed(self, ids: Any) -> Any:
        """Append tokens; their logits. (T,) -> (T, V)"""
        rows: list[Any] = []
        while len(ids):
            size = self._fitting(len(ids))
            rows.append(self._run(size, ids[:size]))
            self.length += len(ids[:size])
            ids = ids[size:]
        return np.concatenate(rows)

    def prefill(self, ids: Any) -> Any:
        """Append a prompt; the logits of its last token, (V,)."""
        return self.feed(ids)[-1]

    def _fitting(self, tokens: int) -> int:
        """The function's size for so many tokens, as ``StaticRunner`` chooses it."""
        most = max(self.sizes)
        if self.whole and tokens < most:
            return 1
        return most if tokens > 1 and self.length + most <= self.context else 1

    def _run(self, size: int, ids: Any) -> Any:
        """At most ``size`` tokens through all packages; their logits, float32. (n,) -> (n, V)"""
        padded = np.zeros((1, size), np.int32)
        padded[0, : len(ids)] = ids
        values: dict[str, Any] = {"ids": padded, "position": np.array([self.length], np.int32)}
        found: dict[str, Any] = {}
        for package, (inputs, _), state in zip(
            self.packages, self.inputs, self.states, strict=True
        ):
            feeds = {name: values[name] for name in inputs[self.sizes[size]]}
            out = package[size].predict(feeds, state=state)
            found |= out
            if "hidden_out" in out:
                values["hidden"] = np.asarray(out["hidden_out"], np.float16)
        parts = [np.asarray(found[name], np.float32) for name in self.parts]
        rows = [part[0] if self.tokens_first else part[0, :, 0].T for part in parts]
        return np.concatenate(rows, axis=1)[: len(ids)]


def _inputs(path: str) -> tuple[dict[str, list[str]], bool]:
    """Names of the inputs by function, and whether the package keeps states."""
    functions = coremltools.utils.load_spec(path).description.functions
    names = {each.name: [item.name for item in each.input] for each in functions}
    return names, any(each.state for each in functions)


def open_engine(folder: Path, artifact: dict[str, Any], threads: int) -> CoremlEngine:
    """Load the artifact, as it ships, from its folder."""
    return CoremlEngine(folder, artifact, threads)
