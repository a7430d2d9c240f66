"""Prepare a checkpoint for quantization: factors on its weights that leave the model the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from slmkit.activations.float16 import overflows, stream_factors, stream_scale
from slmkit.activations.observe import (
    VERSION,
    Activations,
    Runs,
    calibration_runs,
    load_activations,
    observe,
    save_activations,
)
from slmkit.activations.smoothquant import smoothing_factors
from slmkit.checkpoint.folder import Checkpoint
from slmkit.checkpoint.formats.tensor_file import IMPORTED
from slmkit.checkpoint.scaled_weights import Factors, ScaledWeights
from slmkit.errors import CheckpointError
from slmkit.recipe.calibration import Calibration
from slmkit.recipe.recipe import Recipe
from slmkit.recipe.scheme import Scheme
from slmkit.system.cache import Cache, key_of
from slmkit.system.progress import Progress

Schemes = Mapping[str, Scheme]  # by matrix name
FILE = "activations.safetensors"


@dataclass(frozen=True, eq=False)
class Preparation:
    """The decisions of calibration text about the weights, before they are quantized."""

    activations: Activations
    stream_scale: float  # factor on the residual stream, which the weights hold
    alpha: float | None  # SmoothQuant's migration strength; None: no such factors
    key: str  # content address, part of that of codes
    runs: Runs  # the calibration text
    method: Calibration  # of codes that are chosen on it
    known: dict[frozenset[str], dict[str, Factors]] = field(default_factory=dict)  # by unsmoothed

    def factors(self, checkpoint: Checkpoint, schemes: Schemes) -> dict[str, Factors]:
        """The factors on weights that are going to have these ``schemes``, by weight name.

        Weights with palettes are not smoothed: rows that share a palette should be alike. Nor are
        codes that the checkpoint brings: other weights would be other codes.
        """
        fixed = frozenset(
            name
            for name, scheme in schemes.items()
            if scheme.encoding == "palette" or scheme.method == IMPORTED
        )
        if fixed not in self.known:
            self.known[fixed] = self._factors(checkpoint, fixed)
        return self.known[fixed]

    def _factors(self, checkpoint: Checkpoint, fixed: frozenset[str]) -> dict[str, Factors]:
        model = checkpoint.model
        factors = stream_factors(model, self.stream_scale)
        if self.alpha is None:
            return factors
        more = smoothing_factors(
            model, checkpoint.shards, self.activations, self.alpha, left_out=fixed
        )
        none = Factors()
        return {
            name: factors.get(name, none).times(more.get(name, none))
            for name in factors.keys() | more.keys()
        }

    @property
    def text_key(self) -> str:
        """Content address of the text and of the numbers of the method that reads it."""
        return key_of([[run.tolist() for run in self.runs], self.method.model_dump()])

    def weights(self, checkpoint: Checkpoint, schemes: Schemes) -> ScaledWeights:
        """The checkpoint's weights with the factors."""
        return ScaledWeights(checkpoint.shards, self.factors(checkpoint, schemes))

    def problems(self, checkpoint: Checkpoint, schemes: Schemes) -> str:
        """Where float16 would overflow on calibration text, in words; empty if nowhere."""
        first, *others = [*overflows(self.activations, self.factors(checkpoint, schemes))] or [""]
        places = "place" if len(others) == 1 else "places"
        return f"{first}, and {len(others)} other {places}" if others else first


def prepare(
    checkpoint: Checkpoint, recipe: Recipe, runs: Runs, cache: Cache, progress: Progress
) -> Preparation:
    """Observe the float model on some of ``runs``; choose the scale of its residual stream.

    Raises CheckpointError if the model computes no numbers.
    """
    alpha, whole, runs = recipe.smoothquant, runs, calibration_runs(runs)
    read_as = [checkpoint.shards.fingerprint, checkpoint.spec.model_type]
    key = key_of([read_as, [run.tolist() for run in runs], checkpoint.spec.rope_context, VERSION])
    activations = _observed(checkpoint, runs, cache, key, progress)
    for name, size in activations.stream.items():
        if not np.isfinite(size).all():
            raise CheckpointError(
                f"the model computes NaN or infinity on calibration text, first before {name}",
                "the weights are damaged, or config.json is of another model",
            )
    scale = stream_scale(activations)
    return Preparation(
        activations, scale, alpha, key_of([key, alpha, scale]), whole, recipe.calibration
    )


def _observed(
    checkpoint: Checkpoint, runs: Runs, cache: Cache, key: str, progress: Progress
) -> Activations:
    """Out of the cache, or measured now."""
    steps = 2 * checkpoint.spec.layers
    progress.stage("observe activations", steps)
    entry: Path | None = cache.find("activations", key)
    if entry:
        progress.advance(steps)
        return load_activations(entry / FILE)
    found = observe(checkpoint.shards, checkpoint.model, runs, progress.advance)
    with cache.making("activations", key) as making:
        save_activations(found, making / FILE)
    return found
