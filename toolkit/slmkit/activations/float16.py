"""Keep activations within float16: a scale for the residual stream, and what else overflows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from slmkit.activations.observe import Activations
from slmkit.checkpoint.scaled_weights import Factors
from slmkit.interpreters.dataflow import dataflow, sources
from slmkit.interpreters.recorder import Model

LARGEST = 65504.0  # of float16
MARGIN = 2.0  # room for other texts than those of calibration


def stream_scale(activations: Activations) -> float:
    """The power of two, at most 1, that keeps the residual stream within float16."""
    largest = max((float(size.max()) for size in activations.stream.values()), default=0.0)
    return 2.0 ** -max(0, math.ceil(math.log2(largest * MARGIN / LARGEST))) if largest else 1.0


def stream_factors(model: Model, scale: float) -> dict[str, Factors]:
    """The factor ``scale`` on all weights whose outputs are added to the residual stream."""
    if scale == 1:
        return {}
    updates = dataflow(model.spec).updates
    fed = {node.name: node.width for each in updates for node in sources(each)}
    return {name: Factors(np.full(width, scale, np.float32)) for name, width in fed.items()}


def overflows(activations: Activations, factors: Mapping[str, Factors]) -> Iterator[str]:
    """Places where a value of calibration text passes float16's largest, with its size.

    ``factors``: of the weights, by name; activations change with them.
    """
    none = Factors()
    for name, size in activations.outputs.items():
        by = factors.get(name, none).outputs
        largest = float((size if by is None else size * by).max(initial=0))
        if largest > LARGEST:
            yield f"the output of {name} reaches {largest:.0f}"
    for name, size in activations.peaks.items():
        by = factors.get(name, none).inputs
        largest = float((size if by is None else size / by).max(initial=0))
        if largest > LARGEST:
            yield f"the input of {name} reaches {largest:.0f}"
