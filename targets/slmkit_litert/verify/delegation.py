"""Which operations of a .tflite XNNPACK takes: their number, arithmetic and partitions."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from slmkit.system.subprocess_worker import Report
from slmkit_litert.lowering.flatbuffer import text_of
from slmkit_litert.lowering.weight_binding import (
    ExternalBuffer,
    read_model,
    write_model,
)

DELEGATE = "DELEGATE"  # LiteRT's name of a partition that a delegate executes
ARITHMETIC = ("FULLY_CONNECTED", "BATCH_MATMUL")
REASONS = {  # why an operation stays outside; none of these multiplies
    "DYNAMIC_UPDATE_SLICE": "XNNPACK has no kernel that writes into a cache",
    "EMBEDDING_LOOKUP": "rows of the embedding's codes",
    "GATHER": "rows of the rope's table",
    "CONCATENATION": "of slots, which are integers",
    "RESHAPE": "of token ids",
    "STRIDED_SLICE": "of positions",
}
UNKNOWN_REASON = "XNNPACK does not take it here"


def delegation_job(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """``delegation``; the entry point of a worker process.

    The interpreter takes as much memory as the model, which the process returns at its end.
    """
    return delegation(Path(payload["model"]))


def delegation(path: Path) -> dict[str, Any]:
    """By signature: operations, those delegated, partitions, multiplications, the share delegated.

    ``outside`` counts the operations that stay outside by type, ``why`` has the reasons. LiteRT
    reports the plan of a file's first graph only, so each graph is written to a file of its own.
    """
    model, _ = read_model(path)
    names = {
        signature.subgraphIndex: text_of(signature.signatureKey)
        for signature in model.signatureDefs
    }
    results = {}
    for graph, name in names.items():
        with tempfile.TemporaryDirectory(prefix="slmkit-") as folder:
            single = Path(folder) / "single.tflite"
            _write_single_graph(path, graph, single)
            results[name] = _first_graph_delegation(single)
    return results


def _write_single_graph(path: Path, graph: int, out: Path) -> None:
    """Write the file with one of its graphs only."""
    model, content = read_model(path)
    model.subgraphs = [model.subgraphs[graph]]
    model.signatureDefs = [
        signature for signature in model.signatureDefs if signature.subgraphIndex == graph
    ]
    for signature in model.signatureDefs:
        signature.subgraphIndex = 0
    external = []
    for buffer in model.buffers:
        if buffer.offset and buffer.size:
            view = content[buffer.offset : buffer.offset + buffer.size]
            external.append(ExternalBuffer(buffer, buffer.size, partial(list, [view])))
    write_model(model, external, out)


def _first_graph_delegation(path: Path) -> dict[str, Any]:
    """The result of ``delegation`` for a file's first graph."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    shapes = {tensor["index"]: tensor["shape"] for tensor in interpreter.get_tensor_details()}
    plan = interpreter._get_ops_details()
    operations = [item for item in plan if item["op_name"] != DELEGATE]
    partitions = [item for item in plan if item["op_name"] == DELEGATE]
    delegated = _delegated(operations, partitions)
    multiplications = [_multiplications(operation, shapes) for operation in operations]
    total = sum(multiplications)
    inside = sum(multiplications[index] for index in delegated)
    outside = Counter(
        operation["op_name"] for index, operation in enumerate(operations) if index not in delegated
    )
    return {
        "operations": len(operations),
        "delegated": len(delegated),
        "partitions": len(partitions),
        "multiplications": total,
        "share": round(inside / max(1, total), 6),
        "outside": dict(sorted(outside.items())),
        "why": {kind: REASONS.get(kind, UNKNOWN_REASON) for kind in sorted(outside)},
    }


def _delegated(operations: list[Any], partitions: list[Any]) -> set[int]:
    """Indices of the operations between the inputs and the outputs of a partition."""
    producers = {
        output: index
        for index, operation in enumerate(operations)
        for output in operation["outputs"]
    }
    delegated: set[int] = set()
    for partition in partitions:
        inputs, pending = set(partition["inputs"]), list(partition["outputs"])
        while pending:
            tensor = pending.pop()
            index = producers.get(tensor)
            if tensor in inputs or index is None or index in delegated:
                continue
            delegated.add(index)
            pending += list(operations[index]["inputs"])
    return delegated


def _multiplications(operation: Any, shapes: dict[int, Any]) -> int:
    """Multiplications of a linear or a product of activations; 0 for other operations."""
    if operation["op_name"] not in ARITHMETIC:
        return 0
    output = shapes[operation["outputs"][0]]
    terms = shapes[operation["inputs"][0]][-1]
    return int(np.prod(output)) * int(terms)


def report_lines(results: Mapping[str, Any]) -> list[str]:
    """One line per signature for the build's report, from ``delegation``."""
    lines = []
    for name, result in results.items():
        outside = ", ".join(
            f"{count} {kind} ({result['why'][kind]})" for kind, count in result["outside"].items()
        )
        lines.append(
            f"{name}: XNNPACK takes {result['delegated']} of {result['operations']} operations and "
            f"{result['share']:.1%} of the multiplications in {result['partitions']} partitions; "
            f"outside: {outside}"
        )
    return lines


def undelegated_arithmetic(results: Mapping[str, Any]) -> list[str]:
    """One sentence for each signature that multiplies outside of XNNPACK, from ``delegation``."""
    return [
        f"{name}: {1 - result['share']:.1%} of the multiplications stay outside of XNNPACK "
        f"({', '.join(result['outside'])})"
        for name, result in results.items()
        if result["share"] < 1
    ]
