"""The parts of a bundle with their licenses: model, runtimes of phones, tools, what ships."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from typing import Literal

from slmkit.backend.registry import declaration_of
from slmkit.bundle.manifest import BundledArtifact, Manifest
from slmkit.bundle.roles import most_that_ships, shipped
from slmkit.errors import UsageError

Kind = Literal["model", "runtime", "tool", "file"]


@dataclass(frozen=True)
class PartOfBundle:
    """One part. ``license``: as its maker writes it; empty where nobody says."""

    kind: Kind
    name: str
    version: str = ""
    license: str = ""
    purl: str = ""  # https://github.com/package-url/purl-spec
    sha256: str = ""
    about: str = ""


def parts_of(manifest: Manifest, model_license: str = "") -> tuple[PartOfBundle, ...]:
    """All parts, each once. ``model_license``: of the model, which also is that of its files."""
    model = manifest.model
    found = [
        PartOfBundle(
            "model",
            model.name,
            license=model_license,
            sha256=model.checkpoint_sha256,
            about=f"{model.model_type}, {model.parameters:,} parameters; SHA-256 of its weights",
        )
    ]
    for artifact in manifest.artifacts:
        found += _runtimes(artifact)
        found += _tools(artifact)
        found += _files(manifest, artifact, model_license)
    return tuple({(part.kind, part.name, part.version): part for part in found}.values())


def _runtimes(artifact: BundledArtifact) -> Iterator[PartOfBundle]:
    """Libraries that an app links to run the artifact; they are not in the bundle."""
    for each in declaration_of(artifact.name).runtimes:
        version = artifact.libraries.get(each.version_of) or ""
        purl = f"{each.purl}@{version}" if version else each.purl
        name = each.purl.rpartition("/")[2]
        yield PartOfBundle(
            "runtime", name, version, each.license, purl, about=f"of {artifact.name}"
        )


def _tools(artifact: BundledArtifact) -> Iterator[PartOfBundle]:
    """Python packages that wrote the artifact."""
    for name, version in artifact.libraries.items():
        if version is not None:
            found = _installed_license(name, version)
            yield PartOfBundle("tool", name, version, found, f"pkg:pypi/{name}@{version}")


def _files(
    manifest: Manifest, artifact: BundledArtifact, model_license: str
) -> Iterator[PartOfBundle]:
    try:
        files = shipped(manifest, artifact)
    except UsageError:  # an older bundle, which does not say
        files = most_that_ships(manifest, artifact)
    for file in files:
        yield PartOfBundle("file", file.path, license=model_license, sha256=file.sha256)


def _installed_license(package: str, version: str) -> str:
    """As the installed package of this version declares it; empty where it does not, or is not
    installed."""
    try:
        facts = metadata(package)
    except PackageNotFoundError:
        return ""
    if facts["Version"] != version:
        return ""
    said = [facts[name] for name in ("License-Expression", "License") if name in facts]
    return said[0].strip().partition("\n")[0] if said else ""  # some give the whole text
