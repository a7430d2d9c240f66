"""What XNNPACK takes of a .tflite: operations, arithmetic, partitions, and what stays outside."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from slmkit_litert.lowering.weight_binding import Outside, read_model, text_of, write_model

DELEGATE = "DELEGATE"
ARITHMETIC = ("FULLY_CONNECTED", "BATCH_MATMUL")
WHY = {  # what stays outside, and multiplies nothing
    "DYNAMIC_UPDATE_SLICE": "XNNPACK has no kernel that writes into a cache",
    "EMBEDDING_LOOKUP": "rows of the embedding's codes",
    "GATHER": "rows of the rope's table",
    "CONCATENATION": "of slots, which are integers",
    "RESHAPE": "of token ids",
    "STRIDED_SLICE": "of positions",
}
OTHERWISE = "XNNPACK does not take it here"
Report = Callable[[int, int], None]


def delegation_job(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """In a process of its own, for the interpreter takes as much memory as the model."""
    return delegation(Path(payload["model"]))


def delegation(path: Path) -> dict[str, Any]:
    """Per signature: share of operations and of multiplications delegated, partitions, the rest.

    LiteRT shows the plan of a file's first graph only, so each is made the first in turn.
    """
    model, _ = read_model(path)
    names = {each.subgraphIndex: text_of(each.signatureKey) for each in model.signatureDefs}
    found = {}
    for graph, name in names.items():
        with tempfile.TemporaryDirectory(prefix="slmkit-") as folder:
            alone = Path(folder) / "alone.tflite"
            _write_first(path, graph, alone)
            found[name] = _of_first(alone)
    return found


def _write_first(path: Path, graph: int, out: Path) -> None:
    """The file with one graph alone."""
    model, whole = read_model(path)
    model.subgraphs = [model.subgraphs[graph]]
    kept = [each for each in model.signatureDefs if each.subgraphIndex == graph]
    for each in kept:
        each.subgraphIndex = 0
    model.signatureDefs = kept
    outside = []
    for buffer in model.buffers:
        if buffer.offset and buffer.size:
            view = whole[buffer.offset : buffer.offset + buffer.size]
            outside.append(Outside(buffer, buffer.size, partial(np.asarray, view)))
    write_model(model, outside, out)


def _of_first(path: Path) -> dict[str, Any]:
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    shapes = {each["index"]: each["shape"] for each in interpreter.get_tensor_details()}
    operations = interpreter._get_ops_details()
    real = [each for each in operations if each["op_name"] != DELEGATE]
    partitions = [each for each in operations if each["op_name"] == DELEGATE]
    inside = _inside(real, partitions)
    work = [_multiplications(each, shapes) for each in real]
    taken = sum(size for at, size in enumerate(work) if at in inside)
    outside = Counter(each["op_name"] for at, each in enumerate(real) if at not in inside)
    return {
        "operations": len(real),
        "delegated": len(inside),
        "partitions": len(partitions),
        "multiplications": sum(work),
        "share": round(taken / max(1, sum(work)), 6),
        "outside": dict(sorted(outside.items())),
        "why": {kind: WHY.get(kind, OTHERWISE) for kind in sorted(outside)},
    }


def _inside(real: list[Any], partitions: list[Any]) -> set[int]:
    """Operations between a partition's outputs and its inputs."""
    makers = {output: at for at, each in enumerate(real) for output in each["outputs"]}
    found: set[int] = set()
    for partition in partitions:
        border, waiting = set(partition["inputs"]), list(partition["outputs"])
        while waiting:
            tensor = waiting.pop()
            at = makers.get(tensor)
            if tensor in border or at is None or at in found:
                continue
            found.add(at)
            waiting += list(real[at]["inputs"])
    return found


def _multiplications(operation: Any, shapes: dict[int, Any]) -> int:
    """Of a linear or a product of activations: outputs times what each sums up."""
    if operation["op_name"] not in ARITHMETIC:
        return 0
    output = shapes[operation["outputs"][0]]
    summed = shapes[operation["inputs"][0]][-1]
    return int(np.prod(output)) * int(summed)


def said(report: dict[str, Any]) -> list[str]:
    """For the build's report, a line per signature."""
    return [
        f"{name}: XNNPACK takes {each['delegated']} of {each['operations']} operations and "
        f"{each['share']:.1%} of the multiplications in {each['partitions']} partitions; outside: "
        + ", ".join(
            f"{count} {kind} ({each['why'][kind]})" for kind, count in each["outside"].items()
        )
        for name, each in report.items()
    ]


def not_delegated(report: dict[str, Any]) -> list[str]:
    """Arithmetic outside of XNNPACK, one sentence per signature."""
    return [
        f"{name}: {1 - each['share']:.1%} of the multiplications stay outside of XNNPACK "
        f"({', '.join(each['outside'])})"
        for name, each in report.items()
        if each["share"] < 1
    ]
