"""Which channels are balanced for their readers' codes, and what text says about them."""

from __future__ import annotations

from collections.abc import Mapping

from slmkit.activations.conditional_variances import (
    TOKENS,
    VERSION,
    Variances,
    input_variances,
    load_variances,
    save_variances,
)
from slmkit.activations.observe import Runs, calibration_runs
from slmkit.checkpoint.folder import Checkpoint
from slmkit.planning.memory import matrix_schemes
from slmkit.recipe.recipe import Recipe
from slmkit.recipe.scheme import Scheme
from slmkit.system.cache import Cache, key_of
from slmkit.system.progress import Progress

FILE = "variances.safetensors"


def balanced(schemes: Mapping[str, Scheme]) -> frozenset[str]:
    """The matrices that balanced channels are for: 4 bits with scales, chosen on text."""
    return frozenset(
        name
        for name, scheme in schemes.items()
        if scheme.method == "gptq" and scheme.encoding != "palette" and scheme.bits == 4
    )


def measured_variances(
    checkpoint: Checkpoint, recipe: Recipe, runs: Runs, cache: Cache, progress: Progress
) -> tuple[str, Variances]:
    """Content address and variances of the inputs of all matrices that are ``balanced`` in any
    artifact, out of the cache or measured now; both empty if the recipe wants none."""
    model, method = checkpoint.model, recipe.calibration
    schemes = [matrix_schemes(model, recipe, name) for name in (None, *recipe.artifacts)]
    names = frozenset[str]().union(*map(balanced, schemes)) & model.multiplied - model.looked_up
    if not method.balance or not names:
        return "", {}
    read = calibration_runs(runs, tokens=TOKENS)
    text = [run.tolist() for run in read]
    read_as = [checkpoint.shards.fingerprint, checkpoint.spec.model_type]
    facts = [read_as, text, checkpoint.spec.rope_context, sorted(names), method.damping, VERSION]
    key = key_of(facts)
    progress.stage("measure inputs", len(names))
    entry = cache.find("variances", key)
    if entry:
        progress.advance(len(names))
        return key, load_variances(entry / FILE)
    with cache.making("variances", key) as making, cache.folder_of_pieces() as folder:
        found = input_variances(
            checkpoint.shards, model, names, read, method.damping, folder, progress.advance
        )
        save_variances(found, making / FILE)
    return key, found
