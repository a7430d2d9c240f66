"""A saved package: its files, its description, and deterministic bytes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coremltools.proto import Model_pb2

MODEL = Path("Data") / "com.apple.CoreML" / "model.mlmodel"
WEIGHTS = Path("Data") / "com.apple.CoreML" / "weights"
MANIFEST = "Manifest.json"


@dataclass(frozen=True)
class Description:
    """The metadata of a package that Xcode and an app can read."""

    about: str
    author: str
    license: str
    version: str
    interface: Mapping[str, str]  # input, output or state -> description
    facts: Mapping[str, str] = field(default_factory=dict)


def finalize(path: Path, description: Description | None) -> None:
    """Add the description to a saved package and make its bytes deterministic.

    Protobuf maps are sorted, and random identifiers are replaced by ones derived from paths.
    """
    message = read_model(path)
    if description is not None:
        _describe(message.description, description)
    (path / MODEL).write_bytes(message.SerializeToString(deterministic=True))
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    entries = manifest["itemInfoEntries"]
    identifiers = {
        old: str(uuid.uuid5(uuid.NAMESPACE_URL, f"slmkit:{entry['path']}")).upper()
        for old, entry in entries.items()
    }
    ordered = sorted(entries.items(), key=lambda item: str(item[1]["path"]))
    manifest["itemInfoEntries"] = {identifiers[old]: entry for old, entry in ordered}
    manifest["rootModelIdentifier"] = identifiers[manifest["rootModelIdentifier"]]
    text = json.dumps(manifest, indent=4, sort_keys=True)
    (path / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_model(path: Path) -> Any:
    """Read the protobuf message of a package."""
    message = Model_pb2.Model()
    message.ParseFromString((path / MODEL).read_bytes())
    return message


def _describe(target: Any, description: Description) -> None:
    target.metadata.shortDescription = description.about
    target.metadata.author = description.author
    target.metadata.license = description.license
    target.metadata.versionString = description.version
    target.metadata.userDefined.update(description.facts)
    for function in (*target.functions, target):
        for each in (*function.input, *function.output, *function.state):
            each.shortDescription = description.interface.get(each.name, "for debugging")
