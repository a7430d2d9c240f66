"""Prepare a checkpoint for quantization: factors on its weights that leave the model the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from slmkit.activations.balance import Balance
from slmkit.activations.channel_factors import channel_factors
from slmkit.activations.conditional_variances import Variances
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
from slmkit.activations.scale_pairs import ScalePair
from slmkit.activations.smoothquant import SmoothQuant
from slmkit.checkpoint.folder import Checkpoint
from slmkit.checkpoint.formats.tensor_file import IMPORTED
from slmkit.checkpoint.scaled_weights import Factors, ScaledWeights, Source
from slmkit.errors import CheckpointError
from slmkit.ops import Floats
from slmkit.planning.balance import balanced, measured_variances
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
    variances: Variances = field(default_factory=dict)  # of inputs, for balanced channels
    # By the weights that have no factors of channels, and those that have balanced ones.
    known: dict[tuple[frozenset[str], ...], dict[str, Factors]] = field(default_factory=dict)

    def factors(self, checkpoint: Checkpoint, schemes: Schemes) -> dict[str, Factors]:
        """The factors on weights that are going to have these ``schemes``, by weight name.

        Weights with palettes have none: rows that share a palette should be alike. Nor have codes
        that the checkpoint brings: other weights would be other codes.
        """
        fixed = frozenset(
            name
            for name, scheme in schemes.items()
            if scheme.encoding == "palette" or scheme.method == IMPORTED
        )
        for_codes = balanced(schemes).intersection(self.variances)
        if (fixed, for_codes) not in self.known:
            self.known[fixed, for_codes] = self._factors(checkpoint, fixed, for_codes)
        return self.known[fixed, for_codes]

    def _factors(
        self, checkpoint: Checkpoint, fixed: frozenset[str], for_codes: frozenset[str]
    ) -> dict[str, Factors]:
        model = checkpoint.model
        factors = stream_factors(model, self.stream_scale)
        balance = Balance(self.activations, self.variances, for_codes)
        smooth = None if self.alpha is None else SmoothQuant(self.activations, self.alpha)

        def rule(pair: ScalePair, weights: Source) -> Floats | None:
            found = balance(pair, weights)
            return smooth(pair, weights) if found is None and smooth else found

        more = channel_factors(model, checkpoint.shards, rule, left_out=fixed)
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
    own, variances = measured_variances(checkpoint, recipe, whole, cache, progress)
    address = key_of([key, alpha, scale, own] if own else [key, alpha, scale])
    return Preparation(activations, scale, alpha, address, whole, recipe.calibration, variances)


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
