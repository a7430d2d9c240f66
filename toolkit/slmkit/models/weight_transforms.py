"""Transforms from stored tensors to the values that ops use, where the two differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from slmkit.ops import Floats

WeightTransform = Callable[[Floats], Floats]
WeightTransforms = Mapping[str, WeightTransform]  # by ending of the tensor name


def plus_one(stored: Floats) -> Floats:
    """1 + stored: Gemma stores the norm's weight minus one."""
    return stored + 1


def minus_exp(stored: Floats) -> Floats:
    """-exp(stored): Mamba stores A as log(-A)."""
    return -np.exp(stored)


def transform_of(tensor: str, transforms: WeightTransforms) -> WeightTransform | None:
    """The transform of a tensor; None: the stored values are used."""
    for ending, transform in transforms.items():
        if tensor.endswith(ending):
            return transform
    return None
