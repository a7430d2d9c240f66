"""A finished bundle, as the public API hands it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from slmkit.bundle import sbom as bills
from slmkit.bundle import signing
from slmkit.bundle.export import Export, export
from slmkit.bundle.manifest import Manifest, read_manifest
from slmkit.bundle.report import comparison
from slmkit.bundle.verify import verify
from slmkit.checkpoint.folder import SAMPLE_MODEL
from slmkit.checkpoint.model_card import license_of
from slmkit.errors import UsageError
from slmkit.inference import load as loading
from slmkit.inference.session import Session
from slmkit.parity.metrics import Comparison
from slmkit.system.cache import CacheChoice, chosen_folder
from slmkit.system.jobs import Limits
from slmkit.system.progress import Progress, Silent
from slmkit.workflows.gguf import GgufExport, export_gguf
from slmkit.workflows.recheck import Rechecked, recheck

PathLike = str | Path


@dataclass(frozen=True)
class Bundle:
    """A finished bundle in its folder."""

    path: Path

    def __init__(self, path: PathLike) -> None:
        object.__setattr__(self, "path", Path(path))

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest, checked. Raises BundleError."""
        return read_manifest(self.path)

    @property
    def parity(self) -> tuple[Comparison, ...]:
        """The comparisons of the build: SNR in dB, KL in nats, top-1 as a share."""
        return self.manifest.parity

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest."""
        return self.manifest.size

    def verify(self, key: PathLike | None = None) -> int:
        """Check every file against the manifest's hashes; how many there are. With ``key``, a
        file with a public key, the signature too. Raises BundleError that names each missing,
        changed or unknown file, or says what is wrong with the signature."""
        count = verify(self.path)
        if key is not None:
            signing.verify_signature(self.path, Path(key))
        return count

    def sign(self, key: PathLike, password: str | None = None) -> int:
        """Sign every file with a private key of an elliptic curve, a file in PEM; how many files
        there are. Raises BundleError, UsageError, MissingPackageError."""
        return signing.sign(self.path, Path(key), password)

    def sbom(
        self, form: str = "spdx", model: PathLike | None = None, model_license: str | None = None
    ) -> str:
        """The bill of materials as JSON, in the form "spdx" or "cyclonedx".

        The model's license is ``model_license``, else the one on the card of ``model``, the
        checkpoint's folder; else nothing is said of it. Raises BundleError, UsageError,
        MissingPackageError.
        """
        found = model_license or (license_of(Path(model)) if model is not None else "")
        return bills.sbom(self.path, form, found)

    def recheck(
        self,
        model: PathLike | None = None,
        *,
        adapters: Sequence[PathLike] = (),
        limits: Limits | None = None,
        cache: CacheChoice = True,
        progress: Progress | None = None,
    ) -> Rechecked:
        """Run every artifact again and compare it with the reference's answers.

        With ``model`` and ``adapters``, those that the bundle was built from, codes and references
        are computed anew, over every logit. ``Rechecked.check()`` raises ParityError if a bound is
        broken. Raises BundleError for damaged files or another checkpoint.
        """
        checkpoint, merged = None if model is None else Path(model), tuple(map(Path, adapters))
        where, told = chosen_folder(cache), progress or Silent()
        return recheck(self.path, checkpoint, where, told, merged, limits or Limits())

    def export(
        self,
        to: PathLike,
        artifact: str | None = None,
        devices: Sequence[str] = (),
        force: bool = False,
        form: str = "plain",
    ) -> Export:
        """Copy what an app loads of an artifact (on some chips or GPUs alone) into folder ``to``,
        in a store's form if one is named. Raises BundleError, UsageError, RefusedError."""
        return export(self.path, artifact, Path(to), devices, force, form)

    def export_gguf(self, to: PathLike, model: PathLike = SAMPLE_MODEL, **more: Any) -> GgufExport:
        """Write an artifact's codes as a GGUF file into folder ``to``; llama.cpp runs it where the
        package xllamacpp is installed. ``model``: the bundle's checkpoint; ``more``: ``artifact``,
        ``force``, ``cache``, ``progress``. Raises BundleError, RefusedError, ParityError."""
        return export_gguf(self.path, Path(model), Path(to), **more)

    def load(self, artifact: str | None = None, mode: str | None = None) -> Session:
        """An artifact in its runtime: the first one, as it ships, if none is named."""
        return loading.load_bundle(self.path, artifact, mode)


def comparison_page(bundles: Sequence[PathLike]) -> str:
    """A page of HTML, which loads nothing, with two or more bundles side by side: what their
    manifests say of sizes, memory, quality and errors; nothing is measured. Raises BundleError,
    and UsageError for fewer than two, or one that is named twice."""
    folders = [Path(each) for each in bundles]
    if len({each.resolve() for each in folders}) < len(folders):
        raise UsageError("a bundle is named twice", "name each bundle once")
    short = len({each.name for each in folders}) == len(folders)
    named = {each.name if short else str(each): read_manifest(each) for each in folders}
    return comparison.comparison_page(named)
