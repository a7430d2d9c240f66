"""The artifact's description in the manifest: graphs, tensors, chips, modes, and its limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Artifact, Job, Mode, Report, Tensor
from slmkit_onnx.genai import CONFIG
from slmkit_onnx.hexagon.calibrate.calibration import Calibration
from slmkit_onnx.hexagon.genai import PRE
from slmkit_onnx.hexagon.lowering.emit import DATA, EMBED, EMBED_DATA, GraphSet
from slmkit_onnx.hexagon.lowering.static_graph import Value
from slmkit_onnx.hexagon.plan import Plan
from slmkit_onnx.hexagon.qnn.compile import graph_file, sdk_version
from slmkit_onnx.hexagon.qnn.socs import SOCS
from slmkit_onnx.prompts import TOKENIZER_PATTERNS

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
    emitted: Mapping[str, GraphSet],
    folder: Path,
) -> Artifact:
    """Describe the artifact for the manifest; ``emitted``: the QDQ graphs by kind."""
    host = emitted["prefill"].host
    sdk = sdk_version(folder / plan.options.soc[0] / graph_file("decode", plan.parts[-1].name))
    facts: dict[str, Any] = {
        "contract": plan.options.runtime,
        "layers": job.spec.layers,
        "embedding": "graph" if plan.table_in_graph else "host",
        "ropes": [
            {"frequencies": list(rope.frequencies), "magnitude": rope.magnitude}
            for rope in host.ropes
        ],
        "windows": list(host.windows),
        "hidden": host.mask_value,
        "graphs": {
            kind: {"tokens": window.tokens, "past": window.past}
            for kind, window in plan.windows.items()
        },
        "parts": _parts(emitted["prefill"]),
        "between": _between(emitted),
        "checks": [each.name for each in plan.checks],
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
    report = Report(not_executed=_not_executed(job, plan))
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
        report,
        ships=_ships(plan),
        sources=("prefill*.onnx", "decode*.onnx", DATA),
        app_tokenizer=plan.options.runtime != "genai",
        soc_models={name: (name.upper(),) for name in plan.options.soc},
    )


def _ships(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Patterns of what an app loads: a folder for each chip, and what the host computes."""
    chips: dict[str, tuple[str, ...]] = {name: (f"{name}/*",) for name in plan.options.soc}
    if plan.options.runtime == "genai":
        return {"": (PRE, EMBED_DATA, CONFIG, *TOKENIZER_PATTERNS), **chips}
    return chips if plan.table_in_graph else {"": (EMBED, EMBED_DATA), **chips}


def _modes(plan: Plan) -> tuple[Mode, ...]:
    """The modes, each compared with the one before.

    Float graphs, QDQ graphs on the CPU, on each chip's emulator, reloaded binaries.
    """
    on_cpu = [
        Mode("float", "the same graphs in float32, on the CPU", {"reference": "lowering"}),
        Mode("qdq", "QDQ graphs on the CPU, cut as HTP cuts", {"float": "activations"}),
    ]
    return (*on_cpu, *(_emulated(plan) if plan.emulated else _layers_emulated(plan)))


def _emulated(plan: Plan) -> Iterator[Mode]:
    """Modes on the emulator of a model that fits it."""
    for at, name in enumerate(plan.options.soc):
        prompts = OTHER_PROMPTS if at else EMULATED_PROMPTS
        steps = {"qdq": "emulator", "reference": "activations"}
        yield Mode(name, f"QDQ graphs on the emulator of {name}", steps, prompts)
        about = f"context binaries for {name}, compiled one by one, reloaded on the emulator"
        yield Mode(f"{name}-binary", about, {name: "reloaded"}, OTHER_PROMPTS)


def _layers_emulated(plan: Plan) -> Iterator[Mode]:
    """Modes of a model too large for the emulator: only two of its layers run there."""
    about, on_cpu = "first and last layer as integers on {}, the others in float32", "qdq-layers"
    yield Mode(on_cpu, about.format("the CPU"), {"float": "activations"}, OTHER_PROMPTS)
    for name in plan.options.soc:
        steps = {on_cpu: "emulator", "reference": "activations"}
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
    """The Maven packages, with versions, that an Android app needs for the binaries."""
    return [
        "com.microsoft.onnxruntime:onnxruntime-android",
        f"com.qualcomm.qti:onnxruntime-android-qnn, version {version('onnxruntime-qnn')}",
        f"com.qualcomm.qti:qnn-runtime, of QAIRT {sdk}",
    ]


def _soc(name: str) -> dict[str, Any]:
    soc = SOCS[name]
    return {"name": name, "id": soc.id, "hexagon": f"V{soc.architecture}", "about": soc.about}


def _parts(emitted: GraphSet) -> list[dict[str, Any]]:
    return [
        {
            "name": part.name,
            "inputs": [each.name for each in graph.inputs],
            "outputs": [each.name for each in graph.outputs],
        }
        for part, graph in zip(emitted.graphs.parts, emitted.graphs.graphs, strict=True)
    ]


def _between(emitted: Mapping[str, GraphSet]) -> list[dict[str, Any]]:
    """Values that cross from part to part: integers with their encoding, or float32."""
    values = []
    for value in emitted["prefill"].graphs.crossing.values():
        facts: dict[str, Any] = {"name": value.name, "dtype": "float32"}
        if encoding := value.encoding:
            facts = {
                "name": value.integers,
                "dtype": encoding.dtype,
                "scale": encoding.scale,
                "zero_point": encoding.zero_point,
            }
        values.append({**facts, "shape": [1, "tokens", *value.shape[2:]]})
    return values


def _tensors(emitted: Mapping[str, GraphSet], side: str) -> tuple[Tensor, ...]:
    """The model's inputs or outputs (``side``); names for dimensions that differ between graphs."""
    values: dict[str, dict[str, Value]] = {
        kind: getattr(each.graphs, side) for kind, each in emitted.items()
    }
    tensors = []
    for name, value in values["prefill"].items():
        pairs = zip(value.shape, values["decode"][name].shape, strict=True)
        shape = tuple(_dimension(*pair) for pair in pairs)
        tensors.append(_tensor(name, value, shape))
    return tuple(tensors)


def _dimension(prefill: int, decode: int) -> int | str:
    """A dimension's size, or its name if prefill and decode differ."""
    if prefill == decode:
        return prefill
    return "tokens" if decode == 1 else "past"


def _tensor(name: str, value: Value, shape: tuple[int | str, ...]) -> Tensor:
    """Describe one input or output; integers come with scale and zero point."""
    stem, _, layer = name.rpartition("_")
    if not layer.isdigit():
        stem, layer = name, ""
    about = ABOUT.get(stem, ABOUT.get(name, "")).format(layer)
    if name == "input_ids":
        return Tensor(name, "int32", shape, about)
    if value.encoding is None or value.integers != name:
        return Tensor(name, "float32", shape, about)
    encoding = value.encoding
    return Tensor(name, encoding.dtype, shape, about, encoding.scale, encoding.zero_point)
