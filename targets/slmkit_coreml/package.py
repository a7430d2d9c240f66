"""A saved package: where its files are, what it says of itself, and bytes that depend on its
content alone."""

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
    """What Xcode and an app can read of a package."""

    about: str
    author: str
    license: str
    version: str
    borders: Mapping[str, str]  # input, output or state -> what it is
    facts: Mapping[str, str] = field(default_factory=dict)


def finish(path: Path, description: Description | None) -> None:
    """Describe a saved package; then protobuf maps in one order and identifiers out of paths."""
    message = read_model(path)
    if description is not None:
        _describe(message.description, description)
    (path / MODEL).write_bytes(message.SerializeToString(deterministic=True))
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    entries = manifest["itemInfoEntries"]
    names = {
        old: str(uuid.uuid5(uuid.NAMESPACE_URL, f"slmkit:{entry['path']}")).upper()
        for old, entry in entries.items()
    }
    ordered = sorted(entries.items(), key=lambda item: str(item[1]["path"]))
    manifest["itemInfoEntries"] = {names[old]: entry for old, entry in ordered}
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    text = json.dumps(manifest, indent=4, sort_keys=True)
    (path / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_model(path: Path) -> Any:
    """The model of a package, as it is stored."""
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
            each.shortDescription = description.borders.get(each.name, "for debugging")
