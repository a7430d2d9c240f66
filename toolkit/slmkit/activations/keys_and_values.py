"""The sizes of keys and values on calibration text: for a KV cache of integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slmkit.activations.observe import Observer, Runs, calibration_runs
from slmkit.interpreters.recorder import Model
from slmkit.interpreters.reference import Weights
from slmkit.ops import Attention, Floats

Sizes = tuple[Floats, Floats]  # of keys, as they are cached, and of values: (G, d) each


class CacheObserver(Observer):
    """The reference, with a note of the largest magnitude of each channel of keys and values."""

    def __init__(self, weights: Weights, model: Model, runs: Runs) -> None:
        super().__init__(weights, model, runs)
        self.sizes: dict[int, Sizes] = {}  # by attention layer

    def attend(self, q: Floats, k: Floats, v: Floats, layer: int, kind: Attention) -> Floats:
        self.sizes[layer] = np.abs(k).max(axis=0), np.abs(v).max(axis=0)
        return super().attend(q, k, v, layer, kind)


def cache_sizes(weights: Weights, model: Model, texts: Sequence[Sequence[int]]) -> dict[int, Sizes]:
    """The largest magnitude of each channel of keys and values, by attention layer.

    ``weights``: any, those that the artifact holds; ``texts``: token ids, of which the beginnings
    are read.
    """
    observer = CacheObserver(weights, model, calibration_runs(texts))
    model.run(observer)
    return observer.sizes
