"""Parity of a finished bundle: later, on another machine, with or without its checkpoint."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from slmkit import memory
from slmkit.build import codes_of
from slmkit.bundle import verify
from slmkit.cache import Cache
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.errors import BundleError
from slmkit.golden import Golden, Prompt, load_golden
from slmkit.load import artifact_of
from slmkit.manifest import Manifest, read_manifest
from slmkit.parity import Line, line_from_json
from slmkit.progress import Progress
from slmkit.proof import Proof, quantization_line, reference_golden


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
    golden = load_golden(folder / manifest.golden)
    artifacts = {each.name: artifact_of(manifest, each.name) for each in manifest.artifacts}
    with tempfile.TemporaryDirectory(prefix="slmkit-") as scratch:
        proof = Proof(folder, artifacts, manifest.recipe.parity, Path(scratch), progress)
        if model is None:
            old = [line_from_json(line.model_dump(mode="json")) for line in manifest.parity]
            price = tuple(line for line in old if line.error == "quantization")
            return Rechecked(tuple(proof.lines(golden)), price)
        where = Cache(cache or Path(scratch) / "cache")
        golden, line = _anew(manifest, golden, model, where, progress)
        return Rechecked((*proof.lines(golden), line), ())


def _anew(
    manifest: Manifest, golden: Golden, model: Path, cache: Cache, progress: Progress
) -> tuple[Golden, Line]:
    """The golden answers and the quantization error out of the checkpoint itself."""
    checkpoint = open_checkpoint(model)
    if checkpoint.shards.fingerprint != manifest.model.checkpoint_sha256:
        raise BundleError(
            f"{model} is not the checkpoint that the bundle was built from",
            f"its weights' SHA-256 should be {manifest.model.checkpoint_sha256}",
        )
    schemes = memory.matrix_schemes(checkpoint.spec, manifest.recipe)
    codes = codes_of(checkpoint, schemes, cache, progress)
    prompts = [
        Prompt(name, ids[:length], len(ids) - length)
        for name, ids, length in zip(
            golden.names, golden.sequences, golden.prompt_lengths, strict=True
        )
    ]
    fresh = reference_golden(codes, checkpoint.spec, prompts, golden.sequences, progress)
    return fresh, quantization_line(checkpoint, fresh, manifest.recipe.parity, progress)
