"""Write the ``ort`` artifact: model.onnx, its data file, and onnxruntime-genai's files."""

from __future__ import annotations

from pathlib import Path

from slmkit.backend.interface import Artifact, Job, Mode, Model, Progress, SequenceState, Tensor
from slmkit_onnx.data import DataFile
from slmkit_onnx.graph import Graph
from slmkit_onnx.ort.contract import LOGITS_FROM, state_tensors
from slmkit_onnx.ort.files import DATA
from slmkit_onnx.ort.genai import write_genai
from slmkit_onnx.ort.integer_cache import cache_steps
from slmkit_onnx.ort.lowering.adapters import AdapterPlaces
from slmkit_onnx.ort.lowering.attention import AttentionWriter, supports_fused_attention
from slmkit_onnx.ort.lowering.ops import OnnxOps
from slmkit_onnx.ort.lowering.weights import WeightWriter
from slmkit_onnx.ort.options import INT8, answers_last, has_int8_cache, session_entries

MODEL = "model.onnx"
EXACT = Mode(
    "exact",
    "accuracy_level 0: codes dequantized to float32; a float32 KV cache",
    {"reference": "lowering"},
)
SHIPPED = Mode(
    "shipped",
    "the artifact as it ships, with its accuracy_level and KV cache",
    {"reference": "shipped"},
)


def write(job: Job, folder: Path, version: str, progress: Progress) -> Artifact:
    """Write graph, weights and onnxruntime-genai's files into ``folder``; return the artifact."""
    level = job.options.get("accuracy_level", 0)
    graph = Graph(DataFile(DATA))
    last = answers_last(job.options)
    steps = cache_steps(job) if has_int8_cache(job.options) else None
    cache = INT8 if steps else "float32"
    inputs, outputs = io_tensors(job.state, job.spec.vocabulary, last, cache)
    for tensor in inputs:
        graph.input(tensor.name, tensor.dtype, tensor.shape)
    for tensor in outputs:
        graph.output(tensor.name, tensor.shape, tensor.dtype)
    places = AdapterPlaces(graph, job.model, job.options.get("adapters"))
    ops = OnnxOps(
        graph,
        WeightWriter(graph, job.codes, level, places),
        AttentionWriter(graph, job.spec, job.context_length, steps),
        job.debug,
        heads(job.model) if last else (),
    )
    graph.node("Identity", [job.model.run(ops).name], "logits")
    model = graph.model(job.spec.model_type)
    (folder / MODEL).write_bytes(model.SerializeToString(deterministic=True))
    graph.data.write(folder / DATA, progress)
    write_genai(job, folder, MODEL)
    quantized = any(scheme.bits for scheme in job.codes.schemes.values())
    coarser = steps is not None or (level > 1 and quantized)
    fused = supports_fused_attention(job.spec)
    entries = session_entries(job.options)
    return Artifact(
        job.artifact,
        version,
        "ONNX",
        (EXACT, SHIPPED) if coarser else (EXACT,),
        inputs,
        outputs,
        job.state,
        facts={
            "model": MODEL,
            "accuracy_level": level,
            "attention": "GroupQueryAttention" if fused else "decomposed",
            **({"kv_cache": cache} if steps else {}),
            **({"adapters": places.facts()} if places.places else {}),
            **({"logits_from": LOGITS_FROM} if last else {}),
            **({"session_options": entries} if entries else {}),
        },
        ships={"": ("*",)},
    )


def heads(model: Model) -> frozenset[str]:
    """The linear that computes logits, by name: the embedding where it is tied."""
    return model.multiplied & (model.looked_up | {"lm_head"})


def io_tensors(
    state: SequenceState, vocabulary: int, last: bool, cache: str = "float32"
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs and outputs of the graph, as ``ort.contract`` describes them.

    ``last``: a call answers its last token, unless ``logits_from`` asks for more; ``cache``: the
    type of the KV cache.
    """
    pairs = [each.tensors() for each in state_tensors(state, cache)]
    past, present = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    ids = Tensor("input_ids", "int64", ("batch", "tokens"), "token ids")
    mask = Tensor("attention_mask", "int64", ("batch", "total"), "all 1: no padding")
    # 1 is what onnxruntime-genai reads; where more is asked for, ONNX Runtime gives more.
    rows, whose = (1, " after the last token") if last else ("tokens", "")
    logits = Tensor("logits", "float32", ("batch", rows, vocabulary), f"next-token scores{whose}")
    inputs = (ids, mask, *past) if state.attention_layers else (ids, *past)
    return inputs, (logits, *present)
