"""Interpret a model's architecture once per form; write the graphs of all its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from slmkit.backend.interface import Job
from slmkit.backend.partition import Part
from slmkit.backend.static_runner import Window
from slmkit_onnx.data import DataFile
from slmkit_onnx.graph import Graph
from slmkit_onnx.hexagon.contract import CONTRACTS, FLOAT_MASK_VALUE, Contract
from slmkit_onnx.hexagon.host import Host
from slmkit_onnx.hexagon.lowering.attention import AttentionWriter
from slmkit_onnx.hexagon.lowering.encodings import Encoding, Ranges
from slmkit_onnx.hexagon.lowering.ops import HexagonOps
from slmkit_onnx.hexagon.lowering.static_graph import StaticGraphs
from slmkit_onnx.hexagon.lowering.weights import WeightWriter
from slmkit_onnx.hexagon.options import is_wide
from slmkit_onnx.ort.lowering.weights import WeightWriter as TableWriter

DATA = "weights.data"
EMBED, EMBED_DATA = "embed.onnx", "embed.data"
FLOAT_EMBEDS = "input_embeds.float32"  # the output of EMBED before quantization


@dataclass(frozen=True)
class Form:
    """The form of the graphs to write: window, parts, float32 or quantized."""

    window: Window
    parts: Sequence[Part]
    ranges: Ranges | None = None  # None: float32
    mask_value: float = FLOAT_MASK_VALUE  # the mask's value for keys that a token must not see
    contract: Contract = CONTRACTS["slmkit"]
    table_in_graph: bool = False  # the embedding table lies in the graph
    expose_values: bool = False  # every calibrated value is an output


@dataclass(frozen=True)
class GraphSet:
    """The graphs of one form, and the host's tables that they read."""

    graphs: StaticGraphs
    host: Host
    embedding_name: str  # weight of the table
    window: Window
    value_outputs: list[str] = field(default_factory=list)  # with ``Form.expose_values``


def emit_graphs(job: Job, form: Form, data: DataFile) -> GraphSet:
    """Write the graphs; weights get their place in ``data`` and are read when it is written."""
    exposed: list[str] | None = [] if form.expose_values else None
    graphs = StaticGraphs(data, form.parts, form.ranges, exposed)
    attention = AttentionWriter(graphs, job.spec, form.window, form.contract, form.mask_value)
    wide, writer = is_wide(job.options), WeightWriter(job.codes)
    ops = HexagonOps(graphs, writer, attention, form.table_in_graph, wide, job.debug)
    graphs.float_output(job.model.run(ops), "logits")
    host = Host(attention.ropes, attention.windows, form.mask_value, form.contract)
    return GraphSet(graphs, host, ops.embedding_name, form.window, exposed or [])


def save_graph(graph: Graph, path: Path) -> None:
    """Write a graph's model file; its weights lie in the data file beside it."""
    path.write_bytes(graph.model(path.stem).SerializeToString(deterministic=True))


def embedding_graph(job: Job, table: str, data: DataFile, encoding: Encoding | None) -> Graph:
    """The graph that looks up embeddings on the host's CPU. ids [1, T] -> [1, T, D]

    It returns float32 rows, and with an ``encoding`` also integers.
    """
    graph = Graph(data)
    graph.input("input_ids", "int32", (1, "tokens"))
    shape = (1, "tokens", job.spec.width)
    rows = TableWriter(graph, job.codes, 0).gather("input_ids", table, FLOAT_EMBEDS)
    graph.output(rows, shape)
    if encoding is not None:
        scale = graph.constant("scale", encoding.scale, np.float32)
        zero = graph.constant("zero_point", encoding.zero_point, encoding.dtype)
        graph.node("QuantizeLinear", [rows, scale, zero], "input_embeds")
        graph.output("input_embeds", shape, encoding.dtype)
    return graph
