"""Compile graphs ahead of time, each chip and part in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from slmkit.system import subprocess_worker
from slmkit_onnx.hexagon.qnn.socs import SOCS, Soc

KINDS = ("prefill", "decode")
JOB = "slmkit_onnx.hexagon.qnn.compile:compile_job"


def graph_file(kind: str, part: str) -> str:
    """The file of one graph: ``prefill.onnx``, or of one part: ``prefill.head.onnx``."""
    return f"{kind}.onnx" if part == "model" else f"{kind}.{part}.onnx"


def binary_file(part: str) -> str:
    """The binary of a part's two graphs, which QNN names after the first one."""
    return f"{Path(graph_file(KINDS[0], part)).stem}_qnn.bin"


def compile_part(
    folder: Path, out: Path, part: str, soc: Soc, shared: bool, timeout: float
) -> None:
    """Write binaries and stubs of a part's prefill and decode into ``out``.

    ``shared``: one binary for both, with one copy of the weights. Raises BackendError with the
    compiler's reason, its death, or the time that ran out.
    """
    out.mkdir(exist_ok=True)
    payload = {
        "folder": str(folder),
        "out": str(out),
        "soc": soc.name,
        "shared": shared,
        "files": [graph_file(kind, part) for kind in KINDS],
    }
    about = f"compiles the part {part} of the artifact hexagon for {soc.name}"
    subprocess_worker.call(JOB, payload, lambda done, total: None, about, timeout)


def compile_job(payload: dict[str, Any], report: subprocess_worker.Report) -> None:
    """In the worker: the sessions that share a binary must all be alive."""
    from slmkit_onnx.hexagon.qnn.provider import compiled

    folder, out = Path(payload["folder"]), Path(payload["out"])
    places = ("first", "last") if payload["shared"] else ("", "")
    alive = []
    for name, share in zip(payload["files"], places, strict=True):
        alive.append(compiled(folder / name, SOCS[payload["soc"]], out / name, share))
        report(len(alive), len(places))


def sdk_version(stub: Path) -> str:
    """The QAIRT version that a stub's binary is tied to; unknown where nothing was compiled."""
    if not stub.exists():
        return "unknown"
    for node in onnx.load(str(stub), load_external_data=False).graph.node:
        for attribute in node.attribute:
            if attribute.name == "ep_sdk_version":
                return str(attribute.s.decode())
    return "unknown"
