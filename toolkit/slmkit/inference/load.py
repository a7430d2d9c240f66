"""Open a bundle, or a checkpoint, to ask it something: a runner and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slmkit.backend.interface import Artifact, Runner, artifact_from_json
from slmkit.backend.registry import find_backend
from slmkit.bundle.manifest import MANIFEST, Manifest, read_manifest
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import SlmkitError
from slmkit.interpreters import reference
from slmkit.models.spec import Spec
from slmkit.ops import Floats
from slmkit.parity.golden import Ids


@dataclass(frozen=True)
class Loaded:
    """What can answer prompts."""

    runner: Runner
    tokenizer: Tokenizer
    chunk: int  # tokens of a prompt fed at once
    about: str  # which artifact, on which runtime


class ReferenceRunner:
    """The NumPy reference as a runner: slow, exact, for float checkpoints."""

    def __init__(self, weights: reference.Weights, spec: Spec) -> None:
        self.runtime = f"NumPy {np.__version__}, float32 reference"
        self.context_length = spec.rope_context
        self.taps: dict[str, Floats] = {}
        self.weights = weights
        self.spec = spec
        self.cache = reference.Cache()

    def reset(self) -> None:
        """Forget the sequence."""
        self.cache = reference.Cache()

    def feed(self, ids: Ids) -> Floats:
        """Append tokens; their logits, (T, V)."""
        return reference.logits(self.weights, self.spec, [ids], [self.cache])[0]


def load(folder: Path, artifact: str | None = None, mode: str | None = None) -> Loaded:
    """A bundle's artifact (the first by default, as it ships), or a checkpoint's reference."""
    if (folder / MANIFEST).exists() or not (folder / "config.json").exists():
        return _bundle(folder, artifact, mode)
    checkpoint = open_checkpoint(folder)
    runner = ReferenceRunner(checkpoint.shards, checkpoint.spec)
    return Loaded(runner, checkpoint.tokenizer, 128, f"{checkpoint.name}, {runner.runtime}")


def artifact_of(manifest: Manifest, name: str | None) -> Artifact:
    """A bundle's artifact as its backend knows it."""
    return artifact_from_json(manifest.artifact(name).model_dump(mode="json"))


def _bundle(folder: Path, name: str | None, mode: str | None) -> Loaded:
    manifest = read_manifest(folder)
    artifact = artifact_of(manifest, name)
    modes = [each.name for each in artifact.modes]
    chosen = mode or artifact.default_mode
    if chosen not in modes:
        raise SlmkitError(
            f"the artifact {artifact.name} has no mode {chosen!r}", f"modes: {', '.join(modes)}"
        )
    runner = find_backend(artifact.name).open_runner(
        folder / manifest.artifact(name).folder, artifact, chosen
    )
    tokenizer = Tokenizer(folder / manifest.tokenizer)
    about = f"{manifest.model.name}, {artifact.name} {chosen}, {runner.runtime}"
    return Loaded(runner, tokenizer, manifest.recipe.prefill_chunk, about)
