"""A KV cache of 8-bit integers: the steps of keys and values, and the graph without them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from slmkit.backend.interface import Job, cache_sizes
from slmkit.ops import Floats

STEPS = 127  # of each sign
# A channel's range is that on calibration text and a half more. What leaves it is cut off, which
# costs more than a coarser step: measured in docs/pages/contracts/ort.md.
MARGIN = 1.5
SMALLEST = 1e-6  # of a channel that was 0 on calibration text
ATTRIBUTES = {
    "kv_cache_bit_width": 8,
    "k_quant_type": "PER_CHANNEL",
    "v_quant_type": "PER_CHANNEL",
}  # of GroupQueryAttention
SCALES = slice(12, 14)  # k_scale and v_scale among its inputs
Steps = Mapping[int, tuple[Floats, Floats]]  # by attention layer: of keys and values, (G, d) each


def cache_steps(job: Job) -> Steps:
    """The step of each channel, from the sizes on the job's calibration texts."""
    sizes = cache_sizes(job.codes, job.model, job.calibration)
    return {layer: (_step(k), _step(v)) for layer, (k, v) in sizes.items()}


def _step(size: Floats) -> Floats:
    step: Floats = np.maximum(size * np.float32(MARGIN / STEPS), np.float32(SMALLEST))
    return step


def with_float_cache(model: onnx.ModelProto) -> None:
    """Make the KV cache of a graph float32, in place: keys and values are kept as they are."""
    caches = set()
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            kept = [each for each in node.attribute if each.name not in ATTRIBUTES]
            del node.attribute[:], node.input[SCALES]
            node.attribute.extend(kept)
            caches |= {*node.input[3:5], *node.output[1:3]}
    for value in (*model.graph.input, *model.graph.output):
        if value.name in caches:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
