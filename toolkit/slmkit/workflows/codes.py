"""The first half of every build: observe activations, prepare the weights, quantize them; and the
same codes made again, later, for a bundle or a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slmkit.activations.observe import Runs, calibration_runs, load_runs
from slmkit.backend.artifact import PROOF
from slmkit.backend.registry import declaration_of, declarations
from slmkit.bundle.manifest import Manifest
from slmkit.bundle.roles import proof_file
from slmkit.checkpoint.folder import Checkpoint, open_checkpoint
from slmkit.checkpoint.scaled_weights import Factors
from slmkit.errors import BundleError, RefusedError
from slmkit.planning.calibration import calibration_texts
from slmkit.planning.codes import calibrated, codes_of
from slmkit.planning.memory import matrix_schemes
from slmkit.planning.plan import Encoding, Plan
from slmkit.planning.prepare import Preparation, Schemes, prepare
from slmkit.quant.codes import CodesFile
from slmkit.recipe.recipe import Recipe
from slmkit.system.cache import Cache
from slmkit.system.progress import Progress
from slmkit.workflows.quality import refuse_noise
from slmkit.workflows.sensitivity import with_budget

CALIBRATION = f"{PROOF}/calibration.json"  # the token ids that chose the factors on weights


@dataclass(frozen=True)
class Quantized:
    """A plan's codes, and what was decided before they were made."""

    runs: Runs  # calibration text that was observed
    prepared: Preparation
    codes: Mapping[Encoding, CodesFile]


def quantized(
    plan: Plan,
    encodings: Sequence[Encoding],
    cache: Cache,
    progress: Progress,
    trained: bool = False,
) -> Quantized:
    """The codes of some encodings of a plan. Raises SlmkitError.

    ``trained``: whether the model knows more of text than chance; then its calibration text must
    be text.
    """
    recipe, schemes = plan.choice.recipe, [each.schemes for each in encodings]
    runs = _runs(plan.calibration, plan.checkpoint, recipe, schemes)
    if trained and any(calibrated(plan.checkpoint, each) for each in schemes):
        refuse_noise(plan.checkpoint, runs, cache)
    prepared = prepare(plan.checkpoint, recipe, runs, cache, progress)
    for each in encodings:
        _refuse_overflow(plan, each, prepared)
    codes = {
        each: codes_of(plan.checkpoint, each.schemes, cache, progress, prepared)
        for each in encodings
    }
    return Quantized(runs, prepared, codes)


def checkpoint_of(manifest: Manifest, model: Path, adapters: Sequence[Path] = ()) -> Checkpoint:
    """The checkpoint that a bundle was built from, at the bundle's context length.

    Raises BundleError if ``model`` is another one, or ``adapters`` are others than those that were
    merged.
    """
    checkpoint = open_checkpoint(model, adapters=adapters)
    if checkpoint.shards.base_fingerprint != manifest.model.checkpoint_sha256:
        raise BundleError(
            f"{model} is not the checkpoint that the bundle was built from",
            f"its weights' SHA-256 should be {manifest.model.checkpoint_sha256}",
        )
    if checkpoint.shards.adapters != manifest.model.adapters:
        named = ", ".join(each.name for each in manifest.model.adapters) or "none"
        raise BundleError(
            "the adapters are not those that were merged into the bundle",
            f"it was built with --adapter of: {named}",
        )
    return checkpoint.at_context(manifest.context_length)


def bundle_codes(
    folder: Path,
    manifest: Manifest,
    checkpoint: Checkpoint,
    artifact: str,
    cache: Cache,
    progress: Progress,
) -> CodesFile:
    """The codes that an artifact of a bundle holds, made again from its checkpoint."""
    prepared = _prepared(folder, manifest, checkpoint, cache, progress)
    schemes = matrix_schemes(checkpoint.model, manifest.recipe, artifact)
    return codes_of(checkpoint, schemes, cache, progress, prepared)


def bundle_factors(
    folder: Path,
    manifest: Manifest,
    checkpoint: Checkpoint,
    artifact: str,
    cache: Cache,
    progress: Progress,
) -> dict[str, Factors]:
    """The factors on the weights that an artifact of a bundle holds, by weight name."""
    prepared = _prepared(folder, manifest, checkpoint, cache, progress)
    schemes = matrix_schemes(checkpoint.model, manifest.recipe, artifact)
    return prepared.factors(checkpoint, schemes) if prepared else {}


def _prepared(
    folder: Path, manifest: Manifest, checkpoint: Checkpoint, cache: Cache, progress: Progress
) -> Preparation | None:
    """The decisions of a build about the weights; bundles of older versions have no text, and no
    factors either."""
    text = proof_file(folder, CALIBRATION)
    if not text.is_file():
        return None
    return prepare(checkpoint, manifest.recipe, load_runs(text), cache, progress)


def recipe_codes(
    checkpoint: Checkpoint, recipe: Recipe, artifact: str | None, cache: Cache, progress: Progress
) -> CodesFile:
    """A checkpoint's codes under a recipe, as an artifact of a build would hold them; None: by the
    rules for all artifacts alone."""
    if artifact is not None:
        declaration_of(artifact)  # raises for one that does not exist
    texts = calibration_texts(checkpoint, None)
    recipe = with_budget(checkpoint, recipe, texts, cache, progress)
    schemes = matrix_schemes(checkpoint.model, recipe, artifact)
    runs = _runs(texts, checkpoint, recipe, [schemes])
    prepared = prepare(checkpoint, recipe, runs, cache, progress)
    return codes_of(checkpoint, schemes, cache, progress, prepared)


def _runs(
    texts: Sequence[Sequence[int]],
    checkpoint: Checkpoint,
    recipe: Recipe,
    encodings: Sequence[Schemes],
) -> Runs:
    """Calibration text: enough to observe activations, or to choose codes."""
    if any(calibrated(checkpoint, schemes) for schemes in encodings):
        return calibration_runs(texts, tokens=recipe.calibration.tokens)
    return calibration_runs(texts)


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
