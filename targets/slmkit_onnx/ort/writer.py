"""Write the ``ort`` artifact: model.onnx, its data file, and onnxruntime-genai's files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from slmkit.backend.interface import Artifact, Job, Mode, Model, Spec, Tensor
from slmkit_onnx.data import DataFile
from slmkit_onnx.graph import Graph
from slmkit_onnx.ort.files import DATA
from slmkit_onnx.ort.genai import write_genai
from slmkit_onnx.ort.lowering.attention import AttentionWriter, cache_names, fused
from slmkit_onnx.ort.lowering.ops import OnnxOps
from slmkit_onnx.ort.lowering.scan import state_names
from slmkit_onnx.ort.lowering.weights import WeightWriter

STATES = {"conv": "the last tokens' values", "scan": "what the scan has gathered"}
MODEL = "model.onnx"
EXACT = Mode("exact", "accuracy_level 0: codes dequantized to float32", {"reference": "lowering"})
SHIPPED = Mode(
    "shipped", "the artifact as it ships, with its accuracy_level", {"reference": "shipped"}
)


def write(job: Job, folder: Path, version: str, progress: Callable[[int, int], None]) -> Artifact:
    """Emit the graph, stream the weights beside it, add the runtime's own files."""
    level = job.options.get("accuracy_level", 0)
    graph = Graph(DataFile(DATA))
    inputs, outputs = tensors(job.model)
    for tensor in inputs:
        graph.input(tensor.name, tensor.dtype, tensor.shape)
    for tensor in outputs:
        graph.output(tensor.name, tensor.shape, tensor.dtype)
    ops = OnnxOps(
        graph,
        WeightWriter(graph, job.codes, level),
        AttentionWriter(graph, job.spec, job.context_length),
        job.debug,
    )
    graph.node("Identity", [job.forward(ops).name], "logits")
    model = graph.model(job.spec.model_type)
    (folder / MODEL).write_bytes(model.SerializeToString(deterministic=True))
    graph.data.write(folder / DATA, progress)
    write_genai(job, folder, MODEL)
    quantized = any(scheme.bits for scheme in job.codes.schemes.values())
    modes = (EXACT, SHIPPED) if level > 1 and quantized else (EXACT,)
    facts = {
        "model": MODEL,
        "accuracy_level": level,
        "attention": "GroupQueryAttention" if fused(job.spec) else "decomposed",
        "context_length": job.context_length,
        "attention_layers": list(job.model.attention_layers),
        "states": [asdict(state) for state in job.model.states],
        "kv_heads": job.spec.kv_heads,
        "head_width": job.spec.head_width,
        "vocabulary": job.spec.vocabulary,
    }
    return Artifact(job.artifact, version, "ONNX", modes, inputs, outputs, facts)


def tensors(model: Model) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The graph's inputs and outputs: onnxruntime-genai's names for a decoder."""
    spec, past, present = model.spec, [], []
    for layer in model.attention_layers:
        names = cache_names(layer)
        for part, old, new in zip(("keys", "values"), *names, strict=True):
            about = f"{part} of layer {layer}"
            past.append(_cache(old, spec, "past", f"cached {about}"))
            present.append(_cache(new, spec, "total", f"cached {about}, these tokens included"))
    for state in model.states:
        about = f"state of layer {state.layer}: {STATES[state.kind]}"
        for line, name in zip((past, present), state_names(state.kind, state.layer), strict=True):
            line.append(Tensor(name, "float32", ("batch", *state.shape), about))
    ids = Tensor("input_ids", "int64", ("batch", "tokens"), "token ids")
    mask = Tensor("attention_mask", "int64", ("batch", "total"), "1 for each token so far")
    logits = Tensor("logits", "float32", ("batch", "tokens", spec.vocabulary), "next-token scores")
    inputs = (ids, mask, *past) if model.attention_layers else (ids, *past)
    return inputs, (logits, *present)


def _cache(name: str, spec: Spec, length: str, about: str) -> Tensor:
    return Tensor(name, "float32", ("batch", spec.kv_heads, length, spec.head_width), about)
