"""The .tflite without weights: traced and converted by TensorFlow, in a process of its own.

Its size does not depend on the model's weights, nor does the memory it takes. It is kept in the
build cache under spec, context and TensorFlow's version: another recipe binds other weights.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Job, Model
from slmkit.backend.job import model_from_json, spec_to_json
from slmkit.system.cache import Cache, key_of
from slmkit.system.subprocess_worker import call
from slmkit_litert.contract import DECODE, cache_names, prefill_name, state_name, weight_input

VERSION = 6
FILE, NAMES = "skeleton.tflite", "skeleton.json"
Report = Callable[[int, int], None]


def skeleton(job: Job, prefill: int, widths: Mapping[str, int], folder: Path) -> Path:
    """The folder of the skeleton: out of the cache, or made now, under ``folder``.

    ``widths``: inputs of linears that are filled up to whole groups.
    """
    facts = {
        "spec": asdict(job.spec),
        "context": job.context_length,
        "prefill": prefill,
        "widths": dict(widths),
        "debug": job.debug,
        "version": VERSION,
        "tensorflow": version("tensorflow-cpu"),
    }
    cache = Cache(job.cache or folder)
    key = key_of(facts)
    if cache.find("skeleton", key) is None:
        with cache.making("skeleton", key) as making:
            payload = {
                "out": str(making),
                "spec": spec_to_json(job.spec),
                "context": job.context_length,
                "prefill": prefill,
                "widths": dict(widths),
                "debug": job.debug,
            }
            call(
                "slmkit_litert.lowering.graph_template:make",
                payload,
                lambda done, total: None,
                "traces the model with TensorFlow",
            )
    return cache.folder / f"skeleton-{key}"


def tensors_of(model: Model, widths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Every weight by tensor name, in a fixed order, with its shape in the skeleton."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in model.shapes.items():
        matrix = len(shape) == 2
        tensor = f"{name}.weight" if matrix else name
        found[tensor] = (shape[0], widths.get(name, shape[1])) if matrix else shape
    return found


def make(payload: dict[str, Any], report: Report) -> None:
    """In the process of its own: import TensorFlow, trace both signatures, convert."""
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    import tensorflow as tf

    model, out = model_from_json(payload["spec"]), Path(payload["out"])
    tensors = tensors_of(model, payload["widths"])
    context, prefill, debug = payload["context"], payload["prefill"], payload["debug"]
    taps: dict[str, str] | None = {} if debug else None
    signatures = {
        prefill_name(prefill): _traced(tf, model, context, tensors, prefill, None),
        DECODE: _traced(tf, model, context, tensors, 1, taps),
    }
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(tf.Module(), folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        (out / FILE).write_bytes(converter.convert())
    names = {weight_input(number): tensor for number, tensor in enumerate(tensors)}
    (out / NAMES).write_text(json.dumps({"weights": names, "taps": taps or {}}), encoding="utf-8")


def _traced(
    tf: Any,
    model: Model,
    context: int,
    tensors: Mapping[str, tuple[int, ...]],
    tokens: int,
    taps: dict[str, str] | None,
) -> Any:
    """A concrete function of one signature; ``taps`` are filled, if there is such a table."""
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
    for number, shape in enumerate(tensors.values()):
        shapes[weight_input(number)] = (shape, tf.float32)

    def function(**given: Any) -> dict[str, Any]:
        weights = {tensor: given[weight_input(number)] for number, tensor in enumerate(tensors)}
        ops = LitertOps(spec, tokens, context, given, weights, taps is not None)
        logits = model.run(ops)
        outputs = dict(ops.caches)
        if tokens == 1:
            outputs["logits"] = logits.tensor[None]
        for number, (name, tapped) in enumerate(ops.taps.items()):
            outputs[f"tap_{number}"] = tapped
            if taps is not None:
                taps[f"tap_{number}"] = name
        return outputs

    specs = {name: tf.TensorSpec(shape, kind, name) for name, (shape, kind) in shapes.items()}
    return tf.function(function, autograph=False).get_concrete_function(**specs)
