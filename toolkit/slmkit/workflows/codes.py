"""The first half of every build: observe activations, prepare the weights, quantize them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slmkit.activations.observe import Runs, calibration_runs
from slmkit.backend.registry import declarations
from slmkit.errors import RefusedError
from slmkit.planning.codes import calibrated, codes_of
from slmkit.planning.plan import Encoding, Plan
from slmkit.planning.prepare import Preparation, prepare
from slmkit.quant.codes import CodesFile
from slmkit.system.cache import Cache
from slmkit.system.progress import Progress

CALIBRATION = "parity/calibration.json"  # the token ids that chose the factors on weights


@dataclass(frozen=True)
class Quantized:
    """A plan's codes, and what was decided before they were made."""

    runs: Runs  # calibration text that was observed
    prepared: Preparation
    codes: Mapping[Encoding, CodesFile]


def quantized(
    plan: Plan, encodings: Sequence[Encoding], cache: Cache, progress: Progress
) -> Quantized:
    """The codes of some encodings of a plan. Raises SlmkitError."""
    recipe, runs = plan.choice.recipe, calibration_runs(plan.calibration)
    if any(calibrated(plan.checkpoint, each.schemes) for each in encodings):
        runs = calibration_runs(plan.calibration, tokens=recipe.calibration.tokens)
    prepared = prepare(plan.checkpoint, recipe, runs, cache, progress)
    for each in encodings:
        _refuse_overflow(plan, each, prepared)
    codes = {
        each: codes_of(plan.checkpoint, each.schemes, cache, progress, prepared)
        for each in encodings
    }
    return Quantized(runs, prepared, codes)


def _refuse_overflow(plan: Plan, encoding: Encoding, prepared: Preparation) -> None:
    """Raise RefusedError if artifacts that compute in float16 would overflow it."""
    known = declarations()
    names = [name for name in encoding.artifacts if known[name].float16]
    places = prepared.problems(plan.checkpoint, encoding.schemes) if names else ""
    if places:
        raise RefusedError(
            f"{', '.join(names)} would overflow float16, which holds numbers up to 65504: {places}",
            "leave them out with --artifacts; those that compute in float32 are not affected",
        )
