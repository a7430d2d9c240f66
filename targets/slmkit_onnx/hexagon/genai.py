"""Files for onnxruntime-genai's decoder-pipeline: a host graph and a config.

Version 0.15.2 is the last one that runs this contract (later ones fail on it: public issue 2603 of
onnxruntime-genai). The pipeline keeps the KV cache; ``pre.onnx`` computes on the CPU what an app
computes under our own contract: embeddings, cos and sin, the mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from slmkit.backend.interface import Job
from slmkit.backend.static_runner import Window, rope_names
from slmkit_onnx.data import DataFile
from slmkit_onnx.genai import search_options, token_ids, write_config
from slmkit_onnx.graph import Graph
from slmkit_onnx.hexagon.lowering.emit import GraphSet, save_graph
from slmkit_onnx.hexagon.lowering.encodings import LIMITS
from slmkit_onnx.hexagon.qnn.compile import graph_file
from slmkit_onnx.ort.lowering.weights import WeightWriter as TableWriter
from slmkit_onnx.prompts import write_tokenizer_files

PRE = "pre.onnx"
OWN_INPUTS = ("input_ids", "position_ids", "attention_mask")  # from the pipeline, int32


def write_genai(
    job: Job, windows: Mapping[str, Window], emitted: GraphSet, data: DataFile, folder: Path
) -> None:
    """Write pre.onnx, genai_config.json and the tokenizer's files; reserve weights in ``data``."""
    save_graph(_host_graph(job, emitted, data, windows["decode"].total), folder / PRE)
    write_config(_config(job, windows, emitted), folder)
    write_tokenizer_files(job.tokens, folder, job.spec.vocabulary)


def _config(job: Job, windows: Mapping[str, Window], emitted: GraphSet) -> dict[str, Any]:
    return {
        "model": {
            **token_ids(job),
            "type": "decoder-pipeline",
            "vocab_size": job.spec.vocabulary,
            "context_length": job.context_length,
            "decoder": _decoder(job, windows, emitted),
        },
        "search": {
            "max_length": job.context_length,
            "min_length": 0,
            "num_beams": 1,
            "past_present_share_buffer": False,
            "temperature": 1.0,
            "top_k": 1,
            "top_p": 1.0,
            **search_options(job.tokens),
        },
    }


def _decoder(job: Job, windows: Mapping[str, Window], emitted: GraphSet) -> dict[str, Any]:
    spec = job.spec
    return {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "head_size": spec.head_width,
        "hidden_size": spec.width,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "num_hidden_layers": spec.layers,
        "sliding_window": {
            "window_size": windows["prefill"].tokens,
            "pad_value": (sum(LIMITS["uint8"]) + 1) // 2,
            "alignment": "right",
            "slide_key_value_cache": True,
        },
        "inputs": {
            **{name: name for name in OWN_INPUTS},
            "past_key_names": "past_key_%d",
            "past_value_names": "past_value_%d",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "new_key_%d",
            "present_value_names": "new_value_%d",
        },
        "pipeline": [_pipeline(emitted)],
    }


def _pipeline(emitted: GraphSet) -> dict[str, Any]:
    """The stages of the pipeline: host graph, then prefill or decode."""
    graphs = emitted.graphs
    computed = [name for name in graphs.inputs if not name.startswith("past_")]
    host_stage = {"filename": PRE, "inputs": list(OWN_INPUTS), "outputs": computed}

    def stage(kind: str, prefill: bool) -> dict[str, Any]:
        return {
            "filename": graph_file(kind, "model"),
            "inputs": list(graphs.inputs),
            "outputs": ["logits", *(name for name in graphs.outputs if name != "logits")],
            "run_on_prompt": prefill,
            "run_on_token_gen": not prefill,
            "session_options": {
                "log_id": "onnxruntime-genai",
                "provider_options": [{"QNN": {"backend_path": "libQnnHtp.so"}}],
            },
        }

    return {"pre": host_stage, "prefill": stage("prefill", True), "decode": stage("decode", False)}


def _host_graph(job: Job, emitted: GraphSet, data: DataFile, total: int) -> Graph:
    """The graph of pre.onnx: token ids, positions and padding mask to the other graphs' inputs."""
    graph, host = Graph(data), emitted.host
    lengths: dict[str, int | str] = dict.fromkeys(OWN_INPUTS, "tokens") | {"attention_mask": total}
    for name, length in lengths.items():
        graph.input(name, "int32", (1, length))
    TableWriter(graph, job.codes, 0).gather("input_ids", emitted.embedding_name, "input_embeds")
    graph.output("input_embeds", (1, "tokens", job.spec.width))
    for number, rope in enumerate(host.ropes):
        tables = rope.table(np.arange(total + emitted.window.tokens))
        for name, table in zip(rope_names(number), tables, strict=True):
            _rope_rows(graph, name, table)
    for window in host.windows:
        _mask(graph, host.contract.mask_name(window), window, total, host.mask_value)
    return graph


def _rope_rows(graph: Graph, name: str, table: Any) -> None:
    """Output the rows of a rope table at the positions. [1, 1, T, d/2]"""
    full_table = graph.float_tensor(f"{name}.table", table)
    rows = graph.node("Gather", [full_table, "position_ids"], f"{name}.rows", axis=0)
    axis = graph.constant("axis.0", [0])
    graph.output(graph.node("Unsqueeze", [rows, axis], name), (1, 1, "tokens", table.shape[1]))


def _mask(graph: Graph, name: str, window: int | None, total: int, mask_value: float) -> None:
    """Output the mask: 0 where a token may look, ``mask_value`` elsewhere. [1, 1, T, S]

    A token sees tokens at or before its own slot, within its sliding window if there is one, and no
    padding. The T tokens lie in the last T of S slots: query i is slot S - T + i.
    """
    constant = graph.constant
    shape = graph.node("Shape", ["input_ids"], f"{name}.shape")
    tokens = graph.node("Gather", [shape, constant("scalar.1", 1)], f"{name}.tokens", axis=0)
    first = graph.node("Sub", [constant("total", total), tokens], f"{name}.first")
    zero, one = constant("scalar.0", 0), constant("scalar.1", 1)
    queries = graph.node("Range", [first, constant("total", total), one], f"{name}.queries")
    rows = graph.node("Unsqueeze", [queries, constant("axis.1", [1])], f"{name}.query_rows")
    slots = constant("slots", np.arange(total)[None])
    distance = graph.node("Sub", [rows, slots], f"{name}.distance")
    visible = graph.node("GreaterOrEqual", [distance, zero], f"{name}.past")
    if window is not None:
        near = graph.node("Less", [distance, constant(f"w.{window}", window)], f"{name}.near")
        visible = graph.node("And", [visible, near], f"{name}.within")
    real = graph.node("Cast", ["attention_mask"], f"{name}.real", to=TensorProto.BOOL)
    visible = graph.node("And", [visible, real], f"{name}.shown")
    zero_score = constant("visible", 0.0, np.float32)
    masked_score = constant("hidden", mask_value, np.float32)
    flat = graph.node("Where", [visible, zero_score, masked_score], f"{name}.flat")
    mask = graph.node("Unsqueeze", [flat, constant("axes.01", [0, 1])], name)
    graph.output(mask, (1, 1, "tokens", total))
