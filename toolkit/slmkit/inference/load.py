"""Open a bundle or a checkpoint for inference: a runner and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from slmkit.backend.registry import find_backend
from slmkit.bundle.manifest import MANIFEST, read_manifest
from slmkit.bundle.verify import verify_loaded
from slmkit.checkpoint.folder import CONFIG, Checkpoint, open_checkpoint
from slmkit.checkpoint.places.hub import hub_model
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import UsageError
from slmkit.inference.session import Session
from slmkit.interpreters import reference
from slmkit.models.spec import Spec
from slmkit.ops import Floats
from slmkit.parity.golden import Ids
from slmkit.system.cache import Cache

CHUNK = 128  # most prompt tokens of one call of the reference


class ReferenceRunner:
    """A Runner on the NumPy float32 reference; slow, for checkpoints and debugging."""

    def __init__(self, weights: reference.Weights, spec: Spec) -> None:
        self.runtime = f"NumPy {np.__version__}, float32 reference"
        self.context_length = spec.rope_context
        self.taps: dict[str, Floats] = {}
        self.weights = weights
        self.spec = spec
        self.cache = reference.Cache()

    def reset(self) -> None:
        """Start a new sequence: clear the KV cache and the recurrent state."""
        self.cache = reference.Cache()

    def mark(self) -> reference.Cache:
        """The sequence as it is now."""
        return self.cache.copy()

    def rewind(self, mark: object) -> None:
        """Make the sequence what it was at ``mark``."""
        self.cache = cast(reference.Cache, mark).copy()

    def feed(self, ids: Ids) -> Floats:
        """Append ``ids`` (T,) to the sequence. Returns their logits, (T, V)."""
        return reference.logits(self.weights, self.spec, [ids], [self.cache])[0]


def load(folder: Path, artifact: str | None = None, mode: str | None = None) -> Session:
    """Open one artifact of a bundle, or a checkpoint on the NumPy reference.

    ``artifact``: the first of the bundle by default; ``mode``: the artifact's default mode.
    Raises SlmkitError for an unknown artifact or mode.
    """
    if is_bundle(folder):
        return load_bundle(folder, artifact, mode)
    return float_session(open_checkpoint(folder))


def is_bundle(folder: Path) -> bool:
    """Whether a path is to be read as a bundle: it is no checkpoint, and names none of the hub."""
    if folder.is_dir():
        return (folder / MANIFEST).exists() or not (folder / CONFIG).exists()
    return not folder.exists() and hub_model(folder) is None


def float_session(checkpoint: Checkpoint) -> Session:
    """A checkpoint's float weights on the NumPy reference."""
    runner = ReferenceRunner(checkpoint.shards, checkpoint.spec)
    about = f"{checkpoint.name}, {runner.runtime}"
    return Session(runner, checkpoint.tokenizer, CHUNK, about, checkpoint.name)


def load_bundle(
    folder: Path, name: str | None, mode: str | None, cache: Cache | None = None
) -> Session:
    """Open an artifact of a bundle in one of its modes; its files are checked before.

    ``cache``: keeps that they were right. Raises BundleError, UsageError.
    """
    manifest = read_manifest(folder)
    artifact = manifest.artifact(name)
    modes = [each.name for each in artifact.modes]
    chosen = mode or artifact.default_mode
    if chosen not in modes:
        raise UsageError(
            f"the artifact {artifact.name} has no mode {chosen!r}", f"modes: {', '.join(modes)}"
        )
    backend = find_backend(artifact.name)
    verify_loaded(folder, manifest, artifact, cache)
    runner = backend.open_runner(folder / artifact.folder, artifact, chosen)
    model = manifest.model
    tokenizer = Tokenizer(folder / manifest.tokenizer, manifest.chat_template, model.vocab_size)
    tokenizer.stop_ids = manifest.stop_ids  # the checkpoint's config.json may have named them
    about = f"{manifest.model.name}, {artifact.name} {chosen}, {runner.runtime}"
    return Session(runner, tokenizer, manifest.recipe.prefill_chunk, about, model.name)
