"""How a checkpoint's numbers become those that the vocabulary means, where the two differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from slmkit.ops import Floats

Reading = Callable[[Floats], Floats]
Readings = Mapping[str, Reading]  # by the ending of a tensor's name


def plus_one(stored: Floats) -> Floats:
    """A gain that is stored less one."""
    return stored + 1


def minus_exp(stored: Floats) -> Floats:
    """A decay that is stored as log(-decay)."""
    return -np.exp(stored)


def reading_of(tensor: str, readings: Readings) -> Reading | None:
    """How this tensor is read; None: as it is stored."""
    for ending, reading in readings.items():
        if tensor.endswith(ending):
            return reading
    return None
