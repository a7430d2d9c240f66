"""A saved package: where its files are, and bytes that depend on its content alone."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from coremltools.proto import Model_pb2

MODEL = Path("Data") / "com.apple.CoreML" / "model.mlmodel"
WEIGHTS = Path("Data") / "com.apple.CoreML" / "weights"
MANIFEST = "Manifest.json"


def normalize(path: Path) -> None:
    """Protobuf maps in one order, identifiers out of paths: the same package, the same bytes."""
    message = Model_pb2.Model()
    message.ParseFromString((path / MODEL).read_bytes())
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
