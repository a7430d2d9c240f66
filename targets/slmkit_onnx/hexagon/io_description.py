"""What the manifest says of the artifact: its graphs, tensors, chips, and how it was run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Artifact, Job, Mode, Report, Tensor
from slmkit_onnx.hexagon.calibrate.calibration import Calibration
from slmkit_onnx.hexagon.lowering.emit import Emitted
from slmkit_onnx.hexagon.lowering.static_graph import Value
from slmkit_onnx.hexagon.plan import Plan
from slmkit_onnx.hexagon.qnn.compile import graph_file, sdk_version
from slmkit_onnx.hexagon.qnn.socs import SOCS

FORMAT = "QDQ ONNX and QNN context binaries"
EMULATED_PROMPTS, OTHER_PROMPTS = 2, 1  # golden prompts on the first chip's emulator, and the rest
ABOUT = {
    "input_ids": "token ids",
    "input_embeds": "rows of the embedding, from embed.onnx on the CPU",
    "cos": "cosine of each token's position times the rope's frequencies, times its magnitude",
    "sin": "sine of the same",
    "attention_mask_float": "0 where a token may look, the fact `hidden` elsewhere",
    "attention_mask": "0 where a token may look, the fact `hidden` elsewhere",
    "past_key": "cached keys of layer {}, transposed",
    "past_value": "cached values of layer {}",
    "new_key": "keys of these tokens in layer {}, for the host to append",
    "new_value": "values of these tokens in layer {}, for the host to append",
    "past_conv": "what layer {}'s convolution read of the last tokens, 0 at first",
    "past_scan": "state of layer {}, 0 at first",
    "new_conv": "the same after these tokens, layer {}",
    "new_scan": "state of layer {} after these tokens",
    "logits": "next-token scores",
}
SHARED_UNRUN = (
    "hexagon: the weight-shared binaries that ship (the emulator on x86-64 crashes when it reloads "
    "one); the same graphs were compiled one by one, reloaded and run"
)


def artifact(
    job: Job,
    written_by: str,
    plan: Plan,
    calibration: Calibration,
    emitted: Mapping[str, Emitted],
    folder: Path,
) -> Artifact:
    """The artifact as the manifest shows it."""
    host = emitted["prefill"].host
    sdk = sdk_version(folder / plan.options.soc[0] / graph_file("decode", plan.parts[-1].name))
    facts: dict[str, Any] = {
        "contract": plan.options.runtime,
        "layers": job.spec.layers,
        "embedding": "graph" if plan.embedded else "host",
        "ropes": [
            {"frequencies": list(rope.frequencies), "magnitude": rope.magnitude}
            for rope in host.ropes
        ],
        "windows": list(host.windows),
        "hidden": host.hidden,
        "graphs": {
            kind: {"tokens": window.tokens, "past": window.past}
            for kind, window in plan.windows.items()
        },
        "parts": _parts(emitted["prefill"]),
        "between": _between(emitted),
        "socs": [_soc(name) for name in plan.options.soc],
        "binaries": "SOC/prefill*.onnx and SOC/decode*.onnx load SOC/prefill*_qnn.bin, which holds "
        "both graphs and one copy of the weights",
        "qairt": sdk,
        "packages": _packages(sdk),
        "calibration": {
            "method": calibration.method,
            "margin": calibration.margin,
            "tokens": calibration.tokens,
        },
    }
    inputs, outputs = _tensors(emitted, "inputs"), _tensors(emitted, "outputs")
    modes = _modes(plan)
    shipped = modes[-1].name if plan.emulated else "qdq"
    unrun = Report(not_executed=_not_executed(job, plan))
    return Artifact(
        job.artifact,
        written_by,
        FORMAT,
        modes,
        inputs,
        outputs,
        job.state,
        facts,
        shipped,
        unrun,
    )


def _modes(plan: Plan) -> tuple[Mode, ...]:
    """The ladder: float, integers on the CPU, on each chip's emulator, from reloaded binaries."""
    ladder = [
        Mode("float", "the same graphs in float32, on the CPU", {"reference": "lowering"}),
        Mode("qdq", "QDQ graphs on the CPU, cut as HTP cuts", {"float": "activations"}),
    ]
    return (*ladder, *(_emulated(plan) if plan.emulated else _layers_emulated(plan)))


def _emulated(plan: Plan) -> Iterator[Mode]:
    for at, name in enumerate(plan.options.soc):
        prompts = OTHER_PROMPTS if at else EMULATED_PROMPTS
        steps = {"qdq": "emulator", "reference": "activations"}
        yield Mode(name, f"QDQ graphs on the emulator of {name}", steps, prompts)
        about = f"context binaries for {name}, compiled one by one, reloaded on the emulator"
        yield Mode(f"{name}-binary", about, {name: "reloaded"}, OTHER_PROMPTS)


def _layers_emulated(plan: Plan) -> Iterator[Mode]:
    """A model too large for the emulator: what two of its layers add there, and nothing else."""
    about, apart = "first and last layer as integers on {}, the others in float32", "qdq-layers"
    yield Mode(apart, about.format("the CPU"), {"float": "activations"}, OTHER_PROMPTS)
    for name in plan.options.soc:
        steps = {apart: "emulator", "reference": "activations"}
        yield Mode(f"{name}-layers", about.format(f"the emulator of {name}"), steps, OTHER_PROMPTS)


def _not_executed(job: Job, plan: Plan) -> tuple[str, ...]:
    if plan.emulated:
        return (SHARED_UNRUN,)
    return (
        "hexagon: the whole model and its binaries on the emulator: with "
        f"{job.model.parameters:,} parameters it is too large for it; the first and the last "
        "layer ran there, the whole model as QDQ on ONNX Runtime's CPU",
    )


def _packages(sdk: str) -> list[str]:
    """What an Android app must pair with the binaries: Maven packages of these versions."""
    return [
        "com.microsoft.onnxruntime:onnxruntime-android",
        f"com.qualcomm.qti:onnxruntime-android-qnn, version {version('onnxruntime-qnn')}",
        f"com.qualcomm.qti:qnn-runtime, of QAIRT {sdk}",
    ]


def _soc(name: str) -> dict[str, Any]:
    soc = SOCS[name]
    return {"name": name, "id": soc.id, "hexagon": f"V{soc.architecture}", "about": soc.about}


def _parts(emitted: Emitted) -> list[dict[str, Any]]:
    return [
        {
            "name": part.name,
            "inputs": [each.name for each in graph.inputs],
            "outputs": [each.name for each in graph.outputs],
        }
        for part, graph in zip(emitted.graphs.parts, emitted.graphs.graphs, strict=True)
    ]


def _between(emitted: Mapping[str, Emitted]) -> list[dict[str, Any]]:
    """Values that pass from part to part: integers with their encoding, or float32."""
    found = []
    for value in emitted["prefill"].graphs.crossing.values():
        facts: dict[str, Any] = {"name": value.name, "dtype": "float32"}
        if encoding := value.encoding:
            facts = {
                "name": value.integers,
                "dtype": encoding.dtype,
                "scale": encoding.scale,
                "zero_point": encoding.zero_point,
            }
        found.append({**facts, "shape": [1, "tokens", *value.shape[2:]]})
    return found


def _tensors(emitted: Mapping[str, Emitted], side: str) -> tuple[Tensor, ...]:
    """Inputs or outputs of the whole model, dimensions that depend on the graph as text."""
    values: dict[str, dict[str, Value]] = {
        kind: getattr(each.graphs, side) for kind, each in emitted.items()
    }
    found = []
    for name, value in values["prefill"].items():
        pairs = zip(value.shape, values["decode"][name].shape, strict=True)
        shape = tuple(_dimension(*pair) for pair in pairs)
        found.append(_tensor(name, value, shape))
    return tuple(found)


def _dimension(prefill: int, decode: int) -> int | str:
    if prefill == decode:
        return prefill
    return "tokens" if decode == 1 else "past"


def _tensor(name: str, value: Value, shape: tuple[int | str, ...]) -> Tensor:
    stem, _, layer = name.rpartition("_") if name.rpartition("_")[2].isdigit() else (name, "", "")
    about = ABOUT.get(stem, ABOUT.get(name, "")).format(layer)
    if name == "input_ids":
        return Tensor(name, "int32", shape, about)
    if value.encoding is None or value.integers != name:
        return Tensor(name, "float32", shape, about)
    encoding = value.encoding
    return Tensor(name, encoding.dtype, shape, about, encoding.scale, encoding.zero_point)
