"""How a checkpoint's numbers become those that the vocabulary means, where the two differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from slmkit.ops import Floats

WeightTransform = Callable[[Floats], Floats]
WeightTransforms = Mapping[str, WeightTransform]  # by the ending of a tensor's name


def plus_one(stored: Floats) -> Floats:
    """A gain that is stored less one."""
    return stored + 1


def minus_exp(stored: Floats) -> Floats:
    """A decay that is stored as log(-decay)."""
    return -np.exp(stored)


def transform_of(tensor: str, transforms: WeightTransforms) -> WeightTransform | None:
    """How this tensor is read; None: as it is stored."""
    for ending, reading in transforms.items():
        if tensor.endswith(ending):
            return reading
    return None
