"""Open the artifact in one of its modes: which files, on which runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Artifact
from slmkit_onnx.hexagon.options import Options
from slmkit_onnx.hexagon.partition import first_and_last
from slmkit_onnx.hexagon.qnn.compile import KINDS, compile_part, graph_file
from slmkit_onnx.hexagon.qnn.socs import SOCS, Soc
from slmkit_onnx.hexagon.runner import Chain, HexagonRunner
from slmkit_onnx.hexagon.verify.fold_scales import exact_session
from slmkit_onnx.hexagon.writer import CHECK, FLOAT
from slmkit_onnx.sessions import RUNTIME

Open = Callable[[str, str], Any]  # (kind, part) -> session


def open_runner(folder: Path, artifact: Artifact, mode: str) -> HexagonRunner:
    """A runner of mode ``float``, ``qdq``, ``SOC``, ``SOC-binary``, or of ``qdq-layers`` and
    ``SOC-layers``: the first and the last layer as integers, on the CPU and on the emulator."""
    facts = artifact.facts
    names = [part["name"] for part in facts["parts"]]

    def on_cpu(kind: str, part: str) -> Any:
        return exact_session(folder / graph_file(kind, part))

    if mode == "float":
        chains = _chains(facts, ["model"], lambda kind, part: on_cpu(FLOAT + kind, part))
        return HexagonRunner(folder, artifact, RUNTIME, chains, floats=True)
    if mode == "qdq":
        chains = _chains(facts, names, on_cpu)
        return HexagonRunner(folder, artifact, RUNTIME, chains, floats=False)
    if mode == "qdq-layers":
        chains = _layers_apart(folder, artifact, exact_session)
        return HexagonRunner(folder, artifact, RUNTIME, chains, floats=False, embeds=True)
    soc, _, how = mode.partition("-")
    return _emulated(folder, artifact, SOCS[soc], how, names)


def _emulated(
    folder: Path, artifact: Artifact, soc: Soc, how: str, names: list[str]
) -> HexagonRunner:
    from slmkit_onnx.hexagon.qnn.provider import VERSION, qnn_session

    runtime = f"{VERSION}, emulator of {soc.name} (Hexagon V{soc.architecture})"
    if how == "binary":
        chains = _reloaded(folder, artifact, soc, names)
        return HexagonRunner(folder, artifact, f"{runtime}, reloaded binary", chains, floats=False)
    if how == "layers":
        chains = _layers_apart(folder, artifact, lambda path: qnn_session(path, soc))
        runtime = f"{runtime}: first and last layer; {RUNTIME}"
        return HexagonRunner(folder, artifact, runtime, chains, floats=False, embeds=True)

    def emulated(kind: str, part: str) -> Any:
        return qnn_session(folder / graph_file(kind, part), soc)

    return HexagonRunner(folder, artifact, runtime, _chains(artifact.facts, names, emulated), False)


def _reloaded(folder: Path, artifact: Artifact, soc: Soc, names: list[str]) -> dict[int, Chain]:
    """Compile each graph on its own in another process, and load the binaries here."""
    from slmkit_onnx.hexagon.qnn.provider import qnn_session

    with tempfile.TemporaryDirectory(prefix="slmkit-") as scratch:
        out = Path(scratch) / soc.name
        for part in names:
            compile_part(folder, out, part, soc, False, Options.timeout)
        return _chains(
            artifact.facts,
            names,
            lambda kind, part: qnn_session(out / graph_file(kind, part), soc),
        )


def _layers_apart(
    folder: Path, artifact: Artifact, opened: Callable[[Path], Any]
) -> dict[int, Chain]:
    """The whole model in parts: its first and last layer as ``opened``, with real activations; the
    others with nothing rounded between their operations."""
    parts = first_and_last(artifact.facts["layers"])
    apart = {parts[0].name, parts[-2].name}

    def mixed(kind: str, part: str) -> Any:
        path = folder / graph_file(CHECK + kind, part)
        return opened(path) if part in apart else exact_session(path, rounded=False)

    return _chains(artifact.facts, [part.name for part in parts], mixed)


def _chains(facts: Mapping[str, Any], names: list[str], opened: Open) -> dict[int, Chain]:
    """One chain of sessions per token count."""
    return {
        facts["graphs"][kind]["tokens"]: Chain([opened(kind, name) for name in names])
        for kind in KINDS
    }
