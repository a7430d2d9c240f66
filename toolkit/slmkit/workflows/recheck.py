"""Parity of a finished bundle: later, on another machine, with or without its checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slmkit.backend.interface import Artifact
from slmkit.bundle.folder import verify
from slmkit.bundle.manifest import Manifest, read_manifest
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.errors import BundleError
from slmkit.inference.load import artifact_of
from slmkit.parity.compare import Answers, Proof, answers, float_outputs, price
from slmkit.parity.golden import load_golden
from slmkit.parity.metrics import ROUNDED, Line, line_from_json
from slmkit.planning import memory
from slmkit.planning.plan import codes_of, encoding_name
from slmkit.system.cache import Cache
from slmkit.system.progress import Progress


@dataclass(frozen=True)
class Rechecked:
    """The lines of a parity report; ``recorded`` ones were not computed again."""

    lines: tuple[Line, ...]
    recorded: tuple[Line, ...]


def recheck(folder: Path, model: Path | None, cache: Path | None, progress: Progress) -> Rechecked:
    """Verify every hash, run every artifact again, compare with the golden answers.

    With the checkpoint, codes and both references are computed anew, over every logit; without,
    the golden answers kept in the bundle serve, and the quantization error is the recorded one.
    """
    verify(folder)
    manifest = read_manifest(folder)
    artifacts = {each.name: artifact_of(manifest, each.name) for each in manifest.artifacts}
    files = dict.fromkeys(each.golden for each in manifest.artifacts)
    kept = {file: Answers(load_golden(folder / file)) for file in files}
    with tempfile.TemporaryDirectory(prefix="slmkit-") as scratch:
        proof = Proof(folder, artifacts, manifest.recipe.parity, Path(scratch), progress)
        prices: tuple[Line, ...] = ()
        if model is not None:
            where = Cache(cache or Path(scratch) / "cache")
            kept, prices = _anew(manifest, kept, artifacts, model, where, progress)
        lines = [
            line
            for file, expected in kept.items()
            for line in proof.lines(expected, _holders(manifest, file))
        ]
    return Rechecked((*lines, *prices), () if model is not None else _recorded(manifest))


def _recorded(manifest: Manifest) -> tuple[Line, ...]:
    """Lines that need the checkpoint: the recipe's price, and the reference's rounded answers."""
    old = (line_from_json(line.model_dump(mode="json")) for line in manifest.parity)
    return tuple(line for line in old if line.error == "quantization" or line.against == ROUNDED)


def _holders(manifest: Manifest, golden: str) -> list[str]:
    """The artifacts that are compared with a golden file."""
    return [each.name for each in manifest.artifacts if each.golden == golden]


def _anew(
    manifest: Manifest,
    kept: Mapping[str, Answers],
    artifacts: Mapping[str, Artifact],
    model: Path,
    cache: Cache,
    progress: Progress,
) -> tuple[dict[str, Answers], tuple[Line, ...]]:
    """The golden answers and the quantization errors out of the checkpoint itself."""
    checkpoint = open_checkpoint(model)
    if checkpoint.shards.fingerprint != manifest.model.checkpoint_sha256:
        raise BundleError(
            f"{model} is not the checkpoint that the bundle was built from",
            f"its weights' SHA-256 should be {manifest.model.checkpoint_sha256}",
        )
    checkpoint = checkpoint.at_context(manifest.context_length)
    spec, recipe = checkpoint.spec, manifest.recipe
    sequences = next(iter(kept.values())).exact.sequences
    floats = float_outputs(checkpoint, sequences, progress)
    fresh, prices = {}, []
    for file, old in kept.items():
        names = _holders(manifest, file)
        schemes = memory.matrix_schemes(spec, recipe, names[0])
        codes = codes_of(checkpoint, schemes, cache, progress)
        fresh[file] = answers(
            codes,
            spec,
            old.exact.prompts(),
            sequences,
            [artifacts[name] for name in names],
            progress,
        )
        name = encoding_name(names, [each.name for each in manifest.artifacts])
        prices.append(price(name, floats, fresh[file].exact, recipe.parity))
    return fresh, tuple(prices)
