"""Calibration: record the range of every activation while the float graphs run on ONNX Runtime.

The units (layers, then the head) run one after another, each over all texts, so that memory holds
one unit's weights and the activations between two units. The KV cache and recurrent states are
carried from text to text: only the first run starts with empty ones. Prefill and decode share the
ranges.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.backend.interface import Job, Progress
from slmkit.backend.memory import give_back
from slmkit.backend.static_runner import Arrays, Window, slots
from slmkit.ops import Floats
from slmkit_onnx.data import DataFile
from slmkit_onnx.hexagon.calibrate.histogram import METHODS, Histogram
from slmkit_onnx.hexagon.contract import NEW, PAST
from slmkit_onnx.hexagon.lowering.attention import mask_value_for
from slmkit_onnx.hexagon.lowering.emit import (
    DATA,
    EMBED_DATA,
    FLOAT_EMBEDS,
    Form,
    GraphSet,
    embedding_graph,
    emit_graphs,
)
from slmkit_onnx.hexagon.lowering.encodings import Range
from slmkit_onnx.hexagon.lowering.weights import WeightWriter
from slmkit_onnx.hexagon.partition import every_unit
from slmkit_onnx.hexagon.verify.float_weights import FloatWeights
from slmkit_onnx.hexagon.verify.fold_scales import fold_scales
from slmkit_onnx.sessions import cpu_session

Ids = NDArray[np.int64]
TABLE = "calibration.json"
NORMED = ".normed"  # names of norms' outputs end so
# Factor on their margin. Rare tokens are up to three times as large there as all of calibration
# text, and another script of Gemma 3 is one.
NORMS = 1.5


@dataclass(frozen=True)
class Calibration:
    """The quantization range of every activation, and the value that the mask adds to a score.

    ``method``, ``margin``, ``tokens``: how the ranges were chosen, and from how many tokens.
    """

    ranges: dict[str, Range]
    mask_value: float
    method: str
    margin: float
    tokens: int

    def write(self, folder: Path) -> None:
        """Write calibration.json into the artifact's folder."""
        facts = {
            "method": self.method,
            "margin": self.margin,
            "tokens": self.tokens,
            "hidden": self.mask_value,
            "ranges": self.ranges,
        }
        (folder / TABLE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class RecordedActivations:
    """A histogram of each activation, and the range of the embedding table."""

    histograms: dict[str, Histogram]
    embedding_range: Range
    tokens: int

    def choose(self, method: str, margin: float) -> Calibration:
        """Choose ranges by a method of ``METHODS`` and multiply them by ``margin``."""
        ranges = {}
        for name in sorted(self.histograms):
            low, high = METHODS[method](self.histograms[name])
            wider = NORMS * margin if name.endswith(NORMED) else margin
            ranges[name] = low * wider, high * wider
        scores = [span for name, span in ranges.items() if name.endswith(".scores")]
        ranges["input_embeds"] = self.embedding_range
        return Calibration(ranges, mask_value_for(scores), method, margin, self.tokens)


def observe(
    job: Job,
    run_length: int,
    max_tokens: int,
    with_bins: bool,
    data: DataFile,
    table: DataFile,
    folder: Path,
    progress: Progress,
) -> RecordedActivations:
    """Run the float graphs over at most ``max_tokens`` tokens of the job's calibration texts.

    ``run_length``: tokens of one run. ``with_bins``: record histograms too, which every method but
    "minmax" needs. The weights are written to ``folder``, the embedding's apart, into ``table``.
    """
    form = Form(Window(run_length, 0), every_unit(job.spec.layers), expose_values=True)
    emitted = emit_graphs(job, form, data)
    embedding = embedding_graph(job, emitted.embedding_name, table, None)
    models = [graph.model("calibration").SerializeToString() for graph in emitted.graphs.graphs]
    embedding_model = embedding.model("embedding").SerializeToString()
    data.write(folder / DATA, lambda done, total: progress(done, 2 * total))
    table.write(folder / EMBED_DATA, lambda done, total: None)
    runs = calibration_runs(job.calibration, run_length, max_tokens)
    histograms = _run_units(models, embedding_model, emitted, runs, folder, with_bins, progress)
    embedding_range = WeightWriter(job.codes).table_range(emitted.embedding_name)
    return RecordedActivations(histograms, embedding_range, run_length * len(runs))


def calibration_runs(texts: Sequence[Sequence[int]], length: int, max_tokens: int) -> list[Ids]:
    """Cut texts into runs of exactly ``length`` tokens that start at evenly chosen texts.

    A run continues with the texts that follow, and after the last one with the first, until it is
    full. At most ``max_tokens`` tokens in all, at least one run.
    """
    joined = np.concatenate([np.asarray(text, dtype=np.int64) for text in texts])
    starts = np.cumsum([0, *map(len, texts[:-1])])
    count = max(1, min(max_tokens, len(joined)) // length)
    chosen = starts[np.linspace(0, len(starts), count, endpoint=False).astype(int)]
    if len(texts) < count:
        chosen = np.linspace(0, len(joined) - length, count).astype(int)
    return [np.take(joined, np.arange(at, at + length), mode="wrap") for at in chosen]


def _run_units(
    models: list[bytes],
    embedding_model: bytes,
    emitted: GraphSet,
    runs: list[Ids],
    folder: Path,
    with_bins: bool,
    progress: Progress,
) -> dict[str, Histogram]:
    """Run one unit after another over all runs; return histograms of all recorded values."""
    window = Window(len(runs[0]), 0)
    host_inputs = emitted.host.inputs(*slots(window, 0, window.tokens, slides=False))
    flows = _embed(embedding_model, runs, folder)  # of each run, the values that later units read
    histograms: dict[str, Histogram] = {}
    recorded = set(emitted.value_outputs)
    for unit, model in enumerate(models):
        give_back()  # of the unit before
        steps = _run_unit(model, folder, flows, host_inputs, _inputs_of_later_units(emitted, unit))
        for number, outputs in enumerate(steps):
            for name in recorded & set(outputs):
                histograms.setdefault(name, Histogram(with_bins)).add(outputs[name])
            done = unit * len(flows) + number + 1
            progress(len(models) * len(flows) + done, 2 * len(models) * len(flows))
    return histograms


def _run_unit(
    model: bytes, folder: Path, flows: list[Arrays], host_inputs: Arrays, read_later: set[str]
) -> Iterator[Arrays]:
    """Run one unit over all runs: the outputs of each. What later units read replaces the run's
    values in ``flows``."""
    taken = FloatWeights().take_from(fold_scales(model, folder), folder)
    session = cpu_session(taken.source, folder, initializers=taken.weights, in_place=taken.in_place)
    output_names = [output.name for output in session.get_outputs()]
    states = _zero_states(session)
    for number, flow in enumerate(flows):
        known: dict[str, Any] = {**flow, **host_inputs, **states}
        inputs = {each.name: known[each.name] for each in session.get_inputs()}
        outputs = dict(zip(output_names, session.run(output_names, inputs), strict=True))
        states = {name: outputs[name.replace(PAST, NEW, 1)] for name in states}
        known = {**flow, **outputs}
        flows[number] = {name: known[name] for name in read_later & set(known)}
        yield outputs


def _embed(model: bytes, runs: list[Ids], folder: Path) -> list[dict[str, Floats]]:
    """Embeddings of each run, as the input of the first unit. (T,) -> [1, T, D]"""
    session = cpu_session(model, folder)
    flows = []
    for run in runs:
        ids = {"input_ids": run[None].astype(np.int32)}
        flows.append({"input_embeds": session.run([FLOAT_EMBEDS], ids)[0]})
    return flows


def _inputs_of_later_units(emitted: GraphSet, unit: int) -> set[str]:
    """Names of all inputs of the units after this one."""
    return {each.name for graph in emitted.graphs.graphs[unit + 1 :] for each in graph.inputs}


def _zero_states(session: Any) -> dict[str, Floats]:
    """The recurrent states of a unit before the first token: zeros."""
    return {
        each.name: np.zeros(each.shape, np.float32)
        for each in session.get_inputs()
        if each.name.startswith(PAST)
    }
