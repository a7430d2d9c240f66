"""slmkit-adapter.json: an adapter beside a bundle, as an app's files tell of it."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, Field

from slmkit.bundle.folder import Kind
from slmkit.bundle.manifest import MANIFEST, STRICT, File, Inside
from slmkit.checkpoint.adapters.merged import AdapterFacts
from slmkit.parity.metrics import Comparison, Number
from slmkit.system.cache import file_hash

ADAPTER = "slmkit-adapter.json"
KIND = Kind("adapter", "an", ADAPTER, "--out")


class BesideAdapter(BaseModel):
    """The manifest of an adapter's folder."""

    model_config = STRICT

    schema_version: int = 1
    slmkit: str  # version
    model: str
    artifact: str
    base_manifest_sha256: str = Field(pattern="^[0-9a-f]{64}$")  # of the bundle that it is for
    adapter: AdapterFacts
    file: Inside  # that the runtime loads
    effect_db: Number  # SNR of the base's answers against the adapted ones: low is a large change
    parity: tuple[Comparison, ...]  # base with adapter against the reference with the adapter
    not_executed: tuple[str, ...]
    files: tuple[File, ...]


def bundle_id(bundle: Path) -> str:
    """SHA-256 of a bundle's manifest, which has the hashes of all its files."""
    return file_hash(bundle / MANIFEST)


def write_adapter_manifest(adapter: BesideAdapter, folder: Path) -> None:
    """Write slmkit-adapter.json: the same adapter gives the same bytes."""
    text = json.dumps(adapter.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / ADAPTER).write_text(text + "\n", encoding="utf-8")
