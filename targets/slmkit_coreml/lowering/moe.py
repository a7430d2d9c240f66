"""Routing of a mixture of experts, in operations of the Neural Engine: no top-k, no scatter."""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813

from slmkit.ops import Routing


def expert_weights(scores: Any, axis: int, routing: Routing) -> Any:
    """Weights of the E experts along ``axis``, 0 for those that are not chosen.

    An expert is chosen if fewer than ``chosen`` experts score higher: E * E comparisons.
    """
    count = scores.shape[axis]
    probabilities = mb.softmax(x=scores, axis=axis)
    others = mb.split(x=scores, num_splits=count, axis=axis) if count > 1 else [scores]
    is_higher = [mb.cast(x=mb.greater(x=each, y=scores), dtype="fp16") for each in others]
    rank = is_higher[0]
    for each in is_higher[1:]:
        rank = mb.add(x=rank, y=each)
    is_chosen = mb.cast(x=mb.less(x=rank, y=np.float16(routing.chosen)), dtype="fp16")
    weights = mb.mul(x=probabilities, y=is_chosen)
    if not routing.normalized:
        return weights
    parts = mb.split(x=weights, num_splits=count, axis=axis) if count > 1 else [weights]
    total = parts[0]
    for each in parts[1:]:
        total = mb.add(x=total, y=each)
    return mb.real_div(x=weights, y=total)
