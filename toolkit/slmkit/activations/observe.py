"""Run the float model over calibration text and keep the sizes of its activations."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.safetensors import SafetensorsFile, SafetensorsWriter
from slmkit.interpreters.dataflow import dataflow
from slmkit.interpreters.recorder import Model
from slmkit.interpreters.reference import Cache, Reference, Weights
from slmkit.ops import Floats

KINDS = ("inputs", "peaks", "outputs", "stream")
VERSION = 4  # of the measurement and its file; part of the content address
RUN = 256  # tokens of a text that are read
TOKENS = 2048  # of all texts
Ids = NDArray[np.int64]  # (T,)
Runs = Sequence[Ids]  # token ids (T,) of several texts
Report = Callable[[int], None]  # called with the sublayers done since the last call
Sizes = dict[str, Floats]  # by weight name


@dataclass(frozen=True)
class Activations:
    """Largest magnitudes on calibration text, by the name of a weight.

    ``inputs`` leaves out the first token of each text, on which trained models park attention (Xiao
    et al. 2023, "attention sinks"): a few of its channels are a thousand times larger than all
    others. The rest is of all tokens.
    """

    tokens: int
    inputs: Sizes = field(default_factory=dict)  # (K,) of each channel that a linear reads
    peaks: Sizes = field(default_factory=dict)  # the same with the first tokens
    outputs: Sizes = field(default_factory=dict)  # (N,) of each channel of a linear or norm
    stream: Sizes = field(default_factory=dict)  # (1,) of the residual stream that a norm reads


class Observer(Reference):
    """The reference, with a note of every size."""

    def __init__(self, weights: Weights, model: Model, runs: Runs) -> None:
        super().__init__(weights, runs, [Cache() for _ in runs])
        linears = [node for node in dataflow(model.spec).nodes if node.op == "linear"]
        self.head = linears[-1].name
        self.found = Activations(len(self.ids))
        self.is_first = self.positions == 0
        self.report: Report = lambda done: None

    def linear(self, x: Floats, name: str, width: int, bias: bool = False) -> Floats:
        _keep(self.found.inputs, name, x[~self.is_first[self.tokens]])
        _keep(self.found.peaks, name, x)
        if name == self.head:  # nothing reads the logits, which are the largest value
            return np.zeros((len(x), 0), np.float32)
        output = super().linear(x, name, width, bias)
        _keep(self.found.outputs, name, output)
        return output

    def rms_norm(self, x: Floats, name: str, eps: float) -> Floats:
        output = super().rms_norm(x, name, eps)
        _keep(self.found.outputs, name, output.reshape(-1, output.shape[-1]))
        return output

    def add_norm(self, x: Floats, y: Floats, name: str, eps: float) -> tuple[Floats, Floats]:
        total, normed = super().add_norm(x, y, name, eps)
        _keep(self.found.stream, name, total.reshape(-1, 1))
        self.report(1)
        return total, normed


def _keep(sizes: Sizes, name: str, values: Floats) -> None:
    """Keep the largest magnitude of each channel. (T, N)"""
    largest = np.maximum(values.max(axis=0, initial=0), -values.min(axis=0, initial=0))
    sizes[name] = np.maximum(largest, sizes[name]) if name in sizes else largest


def observe(weights: Weights, model: Model, runs: Runs, report: Report) -> Activations:
    """Sizes of all activations over ``runs``; infinity or NaN where float32 overflows."""
    observer = Observer(weights, model, runs)
    observer.report = report
    with np.errstate(over="ignore", invalid="ignore"):
        model.run(observer)
    return observer.found


def calibration_runs(
    texts: Sequence[Sequence[int] | Ids], length: int = RUN, tokens: int = TOKENS
) -> list[NDArray[np.int64]]:
    """The beginnings of evenly chosen texts: at most ``length`` tokens of each, ``tokens`` in all.

    Every run begins as its text does, with the token that begins a text in use.
    """
    sizes = np.minimum([len(text) for text in texts], length)
    count = max(1, int(len(texts) * min(1.0, tokens / max(1, sizes.sum()))))
    chosen = np.arange(len(texts))
    while sizes[chosen].sum() > tokens and count:  # texts differ in length
        chosen = np.unique(np.linspace(0, len(texts) - 1, count).astype(int))
        count -= 1
    return [np.asarray(texts[at][:length], dtype=np.int64) for at in chosen.tolist()]


def save_runs(runs: Runs, path: Path) -> None:
    """Write token ids as JSON; ``load_runs`` is the inverse."""
    path.parent.mkdir(exist_ok=True)
    text = json.dumps([run.tolist() for run in runs], separators=(",", ":"))
    path.write_text(text + "\n", encoding="utf-8")


def load_runs(path: Path) -> Runs:
    """Read a file that ``save_runs`` wrote."""
    runs = json.loads(path.read_text(encoding="utf-8"))
    return [np.asarray(run, dtype=np.int64) for run in runs]


def save_activations(found: Activations, path: Path) -> None:
    """Write to a safetensors file; ``load_activations`` is the inverse."""
    arrays: Sizes = {}
    for kind in KINDS:
        arrays |= {f"{kind}/{name}": size for name, size in getattr(found, kind).items()}
    layout = {name: ("F32", array.shape) for name, array in arrays.items()}
    with SafetensorsWriter(path, layout, {"tokens": str(found.tokens)}) as writer:
        for name, array in arrays.items():
            writer.put(name, array)


def load_activations(path: Path) -> Activations:
    """Read a file that ``save_activations`` wrote."""
    file = SafetensorsFile(path)
    found = Activations(int(file.metadata["tokens"]))
    for entry in file.entries:
        kind, _, name = entry.partition("/")
        getattr(found, kind)[name] = file.floats(entry)
    return found
