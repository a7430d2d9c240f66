"""Parity of a finished bundle: later, on another machine, with or without its checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slmkit.backend.declaration import QUANTIZATION
from slmkit.bundle.folder import verify
from slmkit.bundle.manifest import Manifest, read_manifest
from slmkit.errors import ParityError
from slmkit.parity.compare import Answers, Proof, answers, float_outputs, quantization_cost
from slmkit.parity.golden import load_golden
from slmkit.parity.metrics import ROUNDED, Comparison, failures_of
from slmkit.planning.plan import encoding_name
from slmkit.system.cache import Cache
from slmkit.system.progress import Progress
from slmkit.workflows.codes import bundle_codes, checkpoint_of


@dataclass(frozen=True)
class Rechecked:
    """A parity report; its ``recorded`` comparisons were not computed again."""

    comparisons: tuple[Comparison, ...]
    recorded: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        """Whether every bound is kept."""
        return all(each.passed for each in self.comparisons)

    def check(self) -> None:
        """Raise ParityError if a bound is broken."""
        if not self.passed:
            reasons = "; ".join(failures_of(self.comparisons))
            raise ParityError(f"parity failed: {reasons}", "build the bundle again")


def recheck(folder: Path, model: Path | None, cache: Path | None, progress: Progress) -> Rechecked:
    """Verify every hash, run every artifact again, compare with the golden answers.

    With the checkpoint, codes and both references are computed anew, over every logit; without,
    the golden answers kept in the bundle serve, and the quantization error is the recorded one.
    """
    verify(folder)
    manifest = read_manifest(folder)
    artifacts = {each.name: each for each in manifest.artifacts}
    files = dict.fromkeys(each.golden for each in manifest.artifacts)
    kept = {file: Answers(load_golden(folder / file)) for file in files}
    with tempfile.TemporaryDirectory(prefix="slmkit-") as scratch:
        proof = Proof(folder, artifacts, manifest.recipe.parity, Path(scratch), progress)
        costs: tuple[Comparison, ...] = ()
        if model is not None:
            where = Cache(cache or Path(scratch) / "cache")
            kept, costs = _anew(folder, manifest, kept, model, where, progress)
        found = [
            comparison
            for file, expected in kept.items()
            for comparison in proof.compare(expected, _holders(manifest, file))
        ]
    return Rechecked((*found, *costs), () if model is not None else _recorded(manifest))


def _recorded(manifest: Manifest) -> tuple[Comparison, ...]:
    """Comparisons that need the checkpoint: the recipe's cost, and those with rounded answers."""
    return tuple(
        each for each in manifest.parity if each.error == QUANTIZATION or each.against == ROUNDED
    )


def _holders(manifest: Manifest, golden: str) -> list[str]:
    """The artifacts that are compared with a golden file."""
    return [each.name for each in manifest.artifacts if each.golden == golden]


def _anew(
    folder: Path,
    manifest: Manifest,
    kept: Mapping[str, Answers],
    model: Path,
    cache: Cache,
    progress: Progress,
) -> tuple[dict[str, Answers], tuple[Comparison, ...]]:
    """The golden answers and the quantization errors out of the checkpoint itself."""
    checkpoint = checkpoint_of(manifest, model)
    recipe = manifest.recipe
    sequences = next(iter(kept.values())).exact.sequences
    floats = float_outputs(checkpoint, sequences, progress)
    fresh, costs = {}, []
    for file, old in kept.items():
        names = _holders(manifest, file)
        codes = bundle_codes(folder, manifest, checkpoint, names[0], cache, progress)
        fresh[file] = answers(
            codes,
            checkpoint.spec,
            old.exact.prompts(),
            sequences,
            [manifest.artifact(name) for name in names],
            progress,
        )
        name = encoding_name(names, [each.name for each in manifest.artifacts])
        costs.append(quantization_cost(name, floats, fresh[file].exact, recipe.parity))
    return fresh, tuple(costs)
