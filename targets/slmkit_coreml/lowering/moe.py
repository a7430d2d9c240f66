"""Routing among experts, in operations of the Neural Engine: no top-k, no scatter."""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813

from slmkit.ops import Routing


def routed(scores: Any, axis: int, routing: Routing) -> Any:
    """Weights of the E experts that lie along ``axis``: 0 for those not among the best.

    An expert is chosen if fewer than ``chosen`` score higher: E * E comparisons.
    """
    count = scores.shape[axis]
    probabilities = mb.softmax(x=scores, axis=axis)
    others = mb.split(x=scores, num_splits=count, axis=axis) if count > 1 else [scores]
    higher = [mb.cast(x=mb.greater(x=each, y=scores), dtype="fp16") for each in others]
    ranks = higher[0]
    for each in higher[1:]:
        ranks = mb.add(x=ranks, y=each)
    chosen = mb.cast(x=mb.less(x=ranks, y=np.float16(routing.chosen)), dtype="fp16")
    kept = mb.mul(x=probabilities, y=chosen)
    if not routing.normalized:
        return kept
    parts = mb.split(x=kept, num_splits=count, axis=axis) if count > 1 else [kept]
    total = parts[0]
    for each in parts[1:]:
        total = mb.add(x=total, y=each)
    return mb.real_div(x=kept, y=total)
