"""Parity of a finished bundle: later, on another machine, with or without its checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slmkit import memory
from slmkit.bundle import verify
from slmkit.cache import Cache
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.errors import BundleError
from slmkit.golden import Golden, load_golden
from slmkit.load import artifact_of
from slmkit.manifest import Manifest, read_manifest
from slmkit.parity import Line, line_from_json
from slmkit.plan import codes_of, encoding_name
from slmkit.progress import Progress
from slmkit.proof import Proof, float_outputs, price, reference_golden


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
    goldens = {file: load_golden(folder / file) for file in files}
    with tempfile.TemporaryDirectory(prefix="slmkit-") as scratch:
        proof = Proof(folder, artifacts, manifest.recipe.parity, Path(scratch), progress)
        if model is None:
            old = [line_from_json(line.model_dump(mode="json")) for line in manifest.parity]
            recorded = tuple(line for line in old if line.error == "quantization")
        else:
            where = Cache(cache or Path(scratch) / "cache")
            goldens, fresh = _anew(manifest, goldens, model, where, progress)
            recorded = ()
        lines = [
            line
            for file, golden in goldens.items()
            for line in proof.lines(golden, _holders(manifest, file))
        ]
    return Rechecked((*lines, *(() if model is None else fresh)), recorded)


def _holders(manifest: Manifest, golden: str) -> list[str]:
    """The artifacts that are compared with a golden file."""
    return [each.name for each in manifest.artifacts if each.golden == golden]


def _anew(
    manifest: Manifest, goldens: Mapping[str, Golden], model: Path, cache: Cache,
    progress: Progress,
) -> tuple[dict[str, Golden], tuple[Line, ...]]:  # fmt: skip
    """The golden answers and the quantization errors out of the checkpoint itself."""
    checkpoint = open_checkpoint(model)
    if checkpoint.shards.fingerprint != manifest.model.checkpoint_sha256:
        raise BundleError(
            f"{model} is not the checkpoint that the bundle was built from",
            f"its weights' SHA-256 should be {manifest.model.checkpoint_sha256}",
        )
    spec, recipe = checkpoint.spec, manifest.recipe
    sequences = next(iter(goldens.values())).sequences
    floats = float_outputs(checkpoint, sequences, progress)
    fresh, prices = {}, []
    for file, golden in goldens.items():
        names = _holders(manifest, file)
        codes = codes_of(checkpoint, memory.matrix_schemes(spec, recipe, names[0]), cache, progress)
        fresh[file] = reference_golden(codes, spec, golden.prompts(), sequences, progress)
        name = encoding_name(names, [each.name for each in manifest.artifacts])
        prices.append(price(name, floats, fresh[file], recipe.parity))
    return fresh, tuple(prices)
