"""The graph template: a .tflite without weights, traced and converted by TensorFlow.

A worker process makes it. Neither its size nor the memory that this takes depend on the weights.
The build cache keeps it by spec, context length and TensorFlow's version, so that other recipes of
the same model bind their weights to the same template.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slmkit.backend.import_guard import without
from slmkit.backend.interface import Job, Model
from slmkit.backend.job import model_from_json, spec_to_json
from slmkit.system.cache import Cache, key_of
from slmkit.system.subprocess_worker import Report, call
from slmkit_litert.contract import (
    DECODE,
    PROOF,
    cache_names,
    prefill_name,
    state_name,
    weight_input,
)
from slmkit_litert.declarations import TENSORFLOW
from slmkit_litert.lowering.proof_graph import label_weights, split
from slmkit_litert.lowering.weight_layout import WeightLayout, weight_shapes

VERSION = 9
UNUSED = ("keras", "tf_keras")  # TensorFlow imports one of them wherever it is installed
CACHE_KIND = "graph-template"
# Files of the entry in the cache
FILE, PROOF_FILE = "graph_template.tflite", "proof.flatbuffer"
NAMES = "graph_template.json"


def find_or_trace(job: Job, prefill: int, layout: WeightLayout, folder: Path) -> Path:
    """The folder of the job's graph template, with FILE, PROOF_FILE and NAMES.

    It is taken from the job's cache, or traced and added to it; without a cache, to ``folder``.
    ``prefill``: tokens of a chunk.
    """
    facts = {
        "spec": asdict(job.spec),
        "context": job.context_length,
        "prefill": prefill,
        "layout": asdict(layout),
        "debug": job.debug,
        "version": VERSION,
        "tensorflow": version(TENSORFLOW),
    }
    cache = Cache(job.cache or folder)
    key = key_of(facts)
    if cache.find(CACHE_KIND, key) is None:
        with cache.making(CACHE_KIND, key) as entry:
            payload = {
                "out": str(entry),
                "spec": spec_to_json(job.spec),
                "context": job.context_length,
                "prefill": prefill,
                "layout": asdict(layout),
                "debug": job.debug,
            }
            call(
                "slmkit_litert.lowering.graph_template:trace_job",
                payload,
                lambda done, total: None,
                "traces the model with TensorFlow",
            )
    return cache.folder / f"{CACHE_KIND}-{key}"


def trace_job(payload: dict[str, Any], report: Report) -> None:
    """Trace and convert all signatures; the entry point of the worker process."""
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with without(*UNUSED):
        import tensorflow as tf

    model, out = model_from_json(payload["spec"]), Path(payload["out"])
    shapes = weight_shapes(model, WeightLayout(**payload["layout"]))
    context, prefill, debug = payload["context"], payload["prefill"], payload["debug"]
    taps: dict[str, str] | None = {} if debug else None
    signatures = {
        prefill_name(prefill): _trace_signature(tf, model, context, shapes, prefill, None, False),
        DECODE: _trace_signature(tf, model, context, shapes, 1, taps, True),
        PROOF: _trace_signature(tf, model, context, shapes, prefill, None, True),
    }
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(tf.Module(), folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        template, proof = split(converter.convert(), PROOF)
    names = {weight_input(number): tensor for number, tensor in enumerate(shapes)}
    (out / FILE).write_bytes(template)
    (out / PROOF_FILE).write_bytes(label_weights(proof, names))
    (out / NAMES).write_text(json.dumps({"weights": names, "taps": taps or {}}), encoding="utf-8")


def _trace_signature(
    tf: Any,
    model: Model,
    context: int,
    weight_shapes: Mapping[str, tuple[int, ...]],
    tokens: int,
    taps: dict[str, str] | None,
    with_logits: bool,
) -> Any:
    """The concrete function of one signature.

    ``taps``: None, or a dictionary to fill with the tap of each additional output's name;
    ``with_logits``: whether it returns those of all its tokens.
    """
    from slmkit_litert.lowering.ops import LitertOps

    spec = model.spec
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "tokens": ((1, tokens), tf.int32),
        "input_pos": ((tokens,), tf.int32),
        "mask": ((1, 1, tokens, context), tf.float32),
    }
    for layer in model.attention_layers:
        keys, values = cache_names(layer)
        shapes[keys] = ((1, spec.kv_heads, context, spec.head_width), tf.float32)
        shapes[values] = ((1, spec.kv_heads, spec.head_width, context), tf.float32)
    for state in model.states:
        shapes[state_name(state.kind, state.layer)] = ((1, *state.shape), tf.float32)
    for number, shape in enumerate(weight_shapes.values()):
        shapes[weight_input(number)] = (shape, tf.float32)

    def function(**inputs: Any) -> dict[str, Any]:
        weights = {
            tensor: inputs[weight_input(number)] for number, tensor in enumerate(weight_shapes)
        }
        ops = LitertOps(spec, tokens, context, inputs, weights, taps is not None)
        logits = model.run(ops)
        outputs = dict(ops.caches)
        if with_logits:
            outputs["logits"] = logits.tensor[None]
        for number, (name, tensor) in enumerate(ops.taps.items()):
            outputs[f"tap_{number}"] = tensor
            if taps is not None:
                taps[f"tap_{number}"] = name
        return outputs

    specs = {name: tf.TensorSpec(shape, dtype, name) for name, (shape, dtype) in shapes.items()}
    return tf.function(function, autograph=False).get_concrete_function(**specs)
