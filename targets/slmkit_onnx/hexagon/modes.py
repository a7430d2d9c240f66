"""Open the artifact in one of its modes: choose the files and the runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slmkit.backend.artifact import file_of
from slmkit.backend.interface import Artifact
from slmkit.backend.partition import Part
from slmkit.backend.threads import keep_to_one_core
from slmkit.system.scratch import scratch
from slmkit_onnx.hexagon.lowering.emit import DATA
from slmkit_onnx.hexagon.options import Options
from slmkit_onnx.hexagon.partition import first_and_last
from slmkit_onnx.hexagon.qnn.compile import KINDS, compile_part, graph_file
from slmkit_onnx.hexagon.qnn.socs import SOCS, Soc
from slmkit_onnx.hexagon.runner import HexagonRunner
from slmkit_onnx.hexagon.verify.chain import Chain, OpenSession
from slmkit_onnx.hexagon.verify.float_weights import FloatWeights
from slmkit_onnx.hexagon.verify.on_cpu import open_on_cpu
from slmkit_onnx.hexagon.writer import CHECK, FLOAT
from slmkit_onnx.sessions import RUNTIME


def open_runner(folder: Path, artifact: Artifact, mode: str) -> HexagonRunner:
    """Load the artifact in a mode.

    float         the float graphs on the CPU
    qdq           the QDQ graphs on the CPU, with HTP's rounding
    SOC           the QDQ graphs on a chip's emulator
    SOC-binary    context binaries, compiled anew and reloaded on the emulator
    qdq-layers    the first and the last layer as integers on the CPU, the others in float32
    SOC-layers    the same with these two layers on the emulator
    """
    weights = FloatWeights()

    def on_cpu(kind: str, part: str) -> Any:
        return open_on_cpu(file_of(folder, graph_file(kind, part)), weights)

    def of_floats(kind: str, part: str) -> Any:
        return on_cpu(FLOAT + kind, part)

    if mode == "float":
        names = _names(artifact) if "checks" in artifact.facts else ["model"]  # an older bundle's
        chain = _chain(folder, artifact, of_floats, weights, names)
        return HexagonRunner(folder, artifact, RUNTIME, chain, floats=True)
    if mode == "qdq":
        chain = _chain(folder, artifact, on_cpu, weights)
        return HexagonRunner(folder, artifact, RUNTIME, chain, floats=False)
    if mode == "qdq-layers":
        chain = _single_out_layers(
            folder, artifact, weights, lambda path: open_on_cpu(path, weights)
        )
        return HexagonRunner(folder, artifact, RUNTIME, chain, floats=False, embeds=True)
    soc, _, variant = mode.partition("-")
    return _open_on_emulator(folder, artifact, SOCS[soc], variant, weights)


def _open_on_emulator(
    folder: Path,
    artifact: Artifact,
    soc: Soc,
    variant: str,
    weights: FloatWeights,
) -> HexagonRunner:
    """A runner of the modes SOC, SOC-binary and SOC-layers; ``variant``: "", binary or layers;
    ``weights``: of what runs on the CPU beside the layers."""
    from slmkit_onnx.hexagon.qnn.provider import VERSION, qnn_session

    keep_to_one_core()  # a fifth of the time went into threads that wait for each other
    runtime = f"{VERSION}, emulator of {soc.name} (Hexagon V{soc.architecture})"
    if variant == "binary":
        chain = _reload_binaries(folder, artifact, soc)
        return HexagonRunner(folder, artifact, f"{runtime}, reloaded binary", chain, floats=False)
    if variant == "layers":
        chain = _single_out_layers(folder, artifact, weights, lambda path: qnn_session(path, soc))
        runtime = f"{runtime}: first and last layer; {RUNTIME}"
        return HexagonRunner(folder, artifact, runtime, chain, floats=False, embeds=True)

    def emulated(kind: str, part: str) -> Any:
        return qnn_session(file_of(folder, graph_file(kind, part)), soc)

    return HexagonRunner(folder, artifact, runtime, _chain(folder, artifact, emulated), False)


def _reload_binaries(folder: Path, artifact: Artifact, soc: Soc) -> Chain:
    """Compile each graph to a binary of its own in another process, and load the binaries here."""
    from slmkit_onnx.hexagon.qnn.provider import qnn_session

    with scratch() as place:
        out = place / soc.name
        for part in _names(artifact):
            graphs = file_of(folder, graph_file(KINDS[0], part)).parent
            compile_part(graphs, out, part, soc, False, Options.timeout)
        chain = _chain(
            folder, artifact, lambda kind, part: qnn_session(out / graph_file(kind, part), soc)
        )
        chain.open()
        return chain


def _single_out_layers(
    folder: Path,
    artifact: Artifact,
    weights: FloatWeights,
    open_session: Callable[[Path], Any],
) -> Chain:
    """The whole model: first and last layer as ``open_session`` loads them, the others in float32.

    So both layers get realistic activations.
    """
    names = artifact.facts.get("checks") or _older_checks(artifact.facts["layers"])
    singled_out = {names[0], names[-2]}

    def open_part(kind: str, part: str) -> Any:
        path = file_of(folder, graph_file(CHECK + kind, part))
        if part in singled_out:
            return open_session(path)
        return open_on_cpu(path, weights, htp_rounding=False)

    return _chain(folder, artifact, open_part, weights, names)


def _chain(
    folder: Path,
    artifact: Artifact,
    open_session: OpenSession,
    weights: FloatWeights | None = None,
    names: Sequence[str] = (),
) -> Chain:
    """The sessions of the artifact's parts, or of those with other ``names``."""
    graphs = artifact.facts["graphs"].items()
    tokens = {kind: about["tokens"] for kind, about in graphs}
    stored = file_of(folder, DATA).stat().st_size
    return Chain(names or _names(artifact), tokens, open_session, stored, weights)


def _older_checks(layers: int) -> list[str]:
    """The parts of bundles that do not name them."""
    return [part.name for part in first_and_last([Part("model", 0, layers)], layers)]


def _names(artifact: Artifact) -> list[str]:
    return [part["name"] for part in artifact.facts["parts"]]
