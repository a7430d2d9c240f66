"""Compile graphs to context binaries ahead of time, each chip and part in its own process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx

from slmkit.system import subprocess_worker
from slmkit_onnx.hexagon.qnn.socs import SOCS, Soc

KINDS = ("prefill", "decode")
JOB = "slmkit_onnx.hexagon.qnn.compile:compile_job"


def graph_file(kind: str, part: str) -> str:
    """File name of a graph: ``prefill.onnx``, or ``prefill.head.onnx`` for the part ``head``."""
    return f"{kind}.onnx" if part == "model" else f"{kind}.{part}.onnx"


def binary_file(part: str) -> str:
    """File name of a part's context binary; QNN names it after the first of the two graphs."""
    return f"{Path(graph_file(KINDS[0], part)).stem}_qnn.bin"


def compile_part(
    folder: Path, out: Path, part: str, soc: Soc, shared: bool, timeout: float
) -> None:
    """Compile a part's prefill and decode graph in ``folder``; write binaries and stubs to ``out``.

    ``shared``: one binary for both graphs, with one copy of the weights. ``timeout``: seconds.
    Raises BackendError if the compiler refuses the graphs, crashes or runs out of time.
    """
    out.mkdir(exist_ok=True)
    payload = {
        "folder": str(folder.absolute()),
        "out": str(out.absolute()),
        "soc": soc.name,
        "shared": shared,
        "files": [graph_file(kind, part) for kind in KINDS],
    }
    about = f"compiles the part {part} of the artifact hexagon for {soc.name}"
    subprocess_worker.call(JOB, payload, lambda done, total: None, about, timeout)


def compile_job(payload: dict[str, Any], report: subprocess_worker.Report) -> None:
    """Worker side of ``compile_part``; sessions that share a binary must live until the last.

    ONNX Runtime names the graphs in a binary by a hash of the model's path as it is given: without
    a folder, it is the same in every build.
    """
    from slmkit_onnx.hexagon.qnn.provider import compile_graph

    out = Path(payload["out"])
    os.chdir(payload["folder"])
    share_roles = ("first", "last") if payload["shared"] else ("", "")
    sessions = []
    for name, share_role in zip(payload["files"], share_roles, strict=True):
        sessions.append(compile_graph(Path(name), SOCS[payload["soc"]], out / name, share_role))
        report(len(sessions), len(share_roles))


def sdk_version(stub: Path) -> str:
    """The QAIRT version that a stub's binary is tied to; "unknown" if nothing was compiled."""
    if not stub.exists():
        return "unknown"
    for node in onnx.load(str(stub), load_external_data=False).graph.node:
        for attribute in node.attribute:
            if attribute.name == "ep_sdk_version":
                return str(attribute.s.decode())
    return "unknown"
