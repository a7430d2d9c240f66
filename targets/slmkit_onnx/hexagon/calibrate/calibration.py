"""Ranges of every value, from running the float graphs over calibration text on ONNX Runtime.

One unit (a layer, the head) at a time, all texts through it, then the next: memory holds one unit's
weights and what flows between two units. States go on from text to text: no run but the first finds
them empty. Prefill and decode share the table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.backend.interface import Job
from slmkit.backend.static_runner import Window, slots
from slmkit.ops import Floats
from slmkit_onnx.data import DataFile
from slmkit_onnx.hexagon.calibrate.histogram import METHODS, Spread
from slmkit_onnx.hexagon.contract import NEW, PAST
from slmkit_onnx.hexagon.lowering.attention import hidden_score
from slmkit_onnx.hexagon.lowering.emit import (
    DATA,
    EXACT_EMBEDS,
    Emitted,
    Form,
    embedding_graph,
    emit_form,
)
from slmkit_onnx.hexagon.lowering.encodings import Range
from slmkit_onnx.hexagon.lowering.weights import WeightWriter
from slmkit_onnx.hexagon.partition import every_unit
from slmkit_onnx.hexagon.verify.fold_scales import multiplied
from slmkit_onnx.sessions import cpu_session

Ids = NDArray[np.int64]
Progress = Callable[[int, int], None]
TABLE = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """The table: a range for every value, and what the mask takes off a hidden score."""

    ranges: dict[str, Range]
    hidden: float
    method: str
    margin: float
    tokens: int  # that were read

    def write(self, folder: Path) -> None:
        """Keep it beside the graphs."""
        facts = {
            "method": self.method,
            "margin": self.margin,
            "tokens": self.tokens,
            "hidden": self.hidden,
            "ranges": self.ranges,
        }
        (folder / TABLE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class RecordedValue:
    """What was gathered: each value's spread, the range of the embedding table."""

    spreads: dict[str, Spread]
    table: Range
    tokens: int

    def choose(self, method: str, margin: float) -> Calibration:
        """Ranges by a method of ``METHODS``, widened by ``margin``."""
        ranges = {}
        for name in sorted(self.spreads):
            low, high = METHODS[method](self.spreads[name])
            ranges[name] = low * margin, high * margin
        scores = [span for name, span in ranges.items() if name.endswith(".scores")]
        ranges["input_embeds"] = self.table
        return Calibration(ranges, hidden_score(scores), method, margin, self.tokens)


def observe(
    job: Job,
    tokens: int,
    most: int,
    counted: bool,
    data: DataFile,
    folder: Path,
    progress: Progress,
) -> RecordedValue:
    """Read ``most`` tokens of the job's texts in runs of ``tokens``; weights go to ``folder``.

    ``counted``: gather histograms too, which every method but "minmax" needs.
    """
    form = Form(Window(tokens, 0), every_unit(job.spec.layers), exposed=True)
    emitted = emit_form(job, form, data)
    embedding = embedding_graph(job, emitted.table, data, None)
    models = [graph.model("calibration").SerializeToString() for graph in emitted.graphs.graphs]
    embed = embedding.model("embedding").SerializeToString()
    data.write(folder / DATA, lambda done, total: progress(done, 2 * total))
    runs = packed_runs(job.calibration, tokens, most)
    spreads = _gather(models, embed, emitted, runs, folder, counted, progress)
    return RecordedValue(
        spreads, WeightWriter(job.codes).table_range(emitted.table), tokens * len(runs)
    )


def packed_runs(texts: Sequence[Sequence[int]], tokens: int, most: int) -> list[Ids]:
    """At most ``most`` tokens in runs of exactly ``tokens`` that begin all over the texts.

    A run is a text and those after it, the first again after the last, until it is full.
    """
    joined = np.concatenate([np.asarray(text, dtype=np.int64) for text in texts])
    starts = np.cumsum([0, *map(len, texts[:-1])])
    count = max(1, min(most, len(joined)) // tokens)
    chosen = starts[np.linspace(0, len(starts), count, endpoint=False).astype(int)]
    if len(texts) < count:
        chosen = np.linspace(0, len(joined) - tokens, count).astype(int)
    return [np.take(joined, np.arange(at, at + tokens), mode="wrap") for at in chosen]


def _gather(
    models: list[bytes],
    embed: bytes,
    emitted: Emitted,
    runs: list[Ids],
    folder: Path,
    counted: bool,
    progress: Progress,
) -> dict[str, Spread]:
    """Spreads of all exposed values, unit after unit."""
    window = Window(len(runs[0]), 0)
    fixed = emitted.host.inputs(*slots(window, 0, window.tokens, slides=False))
    lookup = cpu_session(embed, folder)
    flows: list[dict[str, Floats]] = [
        {"input_embeds": lookup.run([EXACT_EMBEDS], {"input_ids": run[None].astype(np.int32)})[0]}
        for run in runs
    ]
    spreads: dict[str, Spread] = {}
    wanted = set(emitted.exposed)
    for at, model in enumerate(models):
        session = cpu_session(multiplied(model, folder), folder)
        later, states = _read_later(emitted, at), _empty(session)
        for number, flow in enumerate(flows):
            given: dict[str, Any] = {**flow, **fixed, **states}
            names = [output.name for output in session.get_outputs()]
            inputs = {each.name: given[each.name] for each in session.get_inputs()}
            found = dict(zip(names, session.run(names, inputs), strict=True))
            states = {name: found[name.replace(PAST, NEW, 1)] for name in states}
            for name in wanted & set(names):
                spreads.setdefault(name, Spread(counted)).add(found[name])
            flow.update({name: found[name] for name in later & set(names)})
            flows[number] = {name: flow[name] for name in later & set(flow)}
            done = at * len(flows) + number + 1
            progress(len(models) * len(flows) + done, 2 * len(models) * len(flows))
    return spreads


def _read_later(emitted: Emitted, at: int) -> set[str]:
    """What the parts after this one read."""
    return {each.name for graph in emitted.graphs.graphs[at + 1 :] for each in graph.inputs}


def _empty(session: Any) -> dict[str, Floats]:
    """The states that a unit's graph reads, as they are before the first token."""
    return {
        each.name: np.zeros(each.shape, np.float32)
        for each in session.get_inputs()
        if each.name.startswith(PAST)
    }
