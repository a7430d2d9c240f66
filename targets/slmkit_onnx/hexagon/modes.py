"""Open the artifact in one of its modes: choose the files and the runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slmkit.backend.artifact import file_of
from slmkit.backend.interface import Artifact
from slmkit.system.scratch import scratch
from slmkit_onnx.hexagon.options import Options
from slmkit_onnx.hexagon.partition import first_and_last
from slmkit_onnx.hexagon.qnn.compile import KINDS, compile_part, graph_file
from slmkit_onnx.hexagon.qnn.socs import SOCS, Soc
from slmkit_onnx.hexagon.runner import Chain, HexagonRunner
from slmkit_onnx.hexagon.verify.float_weights import FloatWeights
from slmkit_onnx.hexagon.verify.on_cpu import open_on_cpu
from slmkit_onnx.hexagon.writer import CHECK, FLOAT
from slmkit_onnx.sessions import RUNTIME

OpenSession = Callable[[str, str], Any]  # (kind, part) -> session


def open_runner(folder: Path, artifact: Artifact, mode: str) -> HexagonRunner:
    """Load the artifact in a mode.

    float         the float graphs on the CPU
    qdq           the QDQ graphs on the CPU, with HTP's rounding
    SOC           the QDQ graphs on a chip's emulator
    SOC-binary    context binaries, compiled anew and reloaded on the emulator
    qdq-layers    the first and the last layer as integers on the CPU, the others in float32
    SOC-layers    the same with these two layers on the emulator
    """
    facts = artifact.facts
    names = [part["name"] for part in facts["parts"]]
    weights = FloatWeights()

    def on_cpu(kind: str, part: str) -> Any:
        return open_on_cpu(file_of(folder, graph_file(kind, part)), weights)

    if mode == "float":
        chains = _chains(facts, ["model"], lambda kind, part: on_cpu(FLOAT + kind, part))
        return HexagonRunner(folder, artifact, RUNTIME, chains, floats=True)
    if mode == "qdq":
        chains = _chains(facts, names, on_cpu)
        return HexagonRunner(folder, artifact, RUNTIME, chains, floats=False)
    if mode == "qdq-layers":
        chains = _single_out_layers(
            folder, artifact, weights, lambda path: open_on_cpu(path, weights)
        )
        return HexagonRunner(folder, artifact, RUNTIME, chains, floats=False, embeds=True)
    soc, _, variant = mode.partition("-")
    return _open_on_emulator(folder, artifact, SOCS[soc], variant, names, weights)


def _open_on_emulator(
    folder: Path,
    artifact: Artifact,
    soc: Soc,
    variant: str,
    names: list[str],
    weights: FloatWeights,
) -> HexagonRunner:
    """A runner of the modes SOC, SOC-binary and SOC-layers; ``variant``: "", binary or layers;
    ``weights``: of what runs on the CPU beside the layers."""
    from slmkit_onnx.hexagon.qnn.provider import VERSION, qnn_session

    runtime = f"{VERSION}, emulator of {soc.name} (Hexagon V{soc.architecture})"
    if variant == "binary":
        chains = _reload_binaries(folder, artifact, soc, names)
        return HexagonRunner(folder, artifact, f"{runtime}, reloaded binary", chains, floats=False)
    if variant == "layers":
        chains = _single_out_layers(folder, artifact, weights, lambda path: qnn_session(path, soc))
        runtime = f"{runtime}: first and last layer; {RUNTIME}"
        return HexagonRunner(folder, artifact, runtime, chains, floats=False, embeds=True)

    def emulated(kind: str, part: str) -> Any:
        return qnn_session(file_of(folder, graph_file(kind, part)), soc)

    return HexagonRunner(folder, artifact, runtime, _chains(artifact.facts, names, emulated), False)


def _reload_binaries(
    folder: Path, artifact: Artifact, soc: Soc, names: list[str]
) -> dict[int, Chain]:
    """Compile each graph to a binary of its own in another process, and load the binaries here."""
    from slmkit_onnx.hexagon.qnn.provider import qnn_session

    with scratch() as place:
        out = place / soc.name
        for part in names:
            graphs = file_of(folder, graph_file(KINDS[0], part)).parent
            compile_part(graphs, out, part, soc, False, Options.timeout)
        return _chains(
            artifact.facts,
            names,
            lambda kind, part: qnn_session(out / graph_file(kind, part), soc),
        )


def _single_out_layers(
    folder: Path,
    artifact: Artifact,
    weights: FloatWeights,
    open_session: Callable[[Path], Any],
) -> dict[int, Chain]:
    """The whole model: first and last layer as ``open_session`` loads them, the others in float32.

    So both layers get realistic activations.
    """
    parts = first_and_last(artifact.facts["layers"])
    singled_out = {parts[0].name, parts[-2].name}

    def open_part(kind: str, part: str) -> Any:
        path = file_of(folder, graph_file(CHECK + kind, part))
        if part in singled_out:
            return open_session(path)
        return open_on_cpu(path, weights, htp_rounding=False)

    return _chains(artifact.facts, [part.name for part in parts], open_part)


def _chains(
    facts: Mapping[str, Any], names: list[str], open_session: OpenSession
) -> dict[int, Chain]:
    """Sessions of all parts, by token count (prefill and decode)."""
    return {
        facts["graphs"][kind]["tokens"]: Chain([open_session(kind, name) for name in names])
        for kind in KINDS
    }
