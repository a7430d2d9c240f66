"""A checkpoint's weights with adapters merged into them, in the order that they are named."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from slmkit.checkpoint.adapters.change import ChangedWeights
from slmkit.checkpoint.adapters.peft_folder import Adapter, open_adapter
from slmkit.checkpoint.shards import Shards
from slmkit.interpreters.recorder import Model
from slmkit.models.weight_transforms import WeightTransforms
from slmkit.quant.codes import Codes
from slmkit.recipe.scheme import Scheme

Kept = TypeVar("Kept")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AdapterFacts:
    """An adapter that was merged, for the manifest."""

    name: str  # its folder's
    kind: str  # LoRA or DoRA
    rank: int
    alpha: float
    matrices: int  # that it changes
    trained_on: str  # as it says; empty: it does not
    weights_sha256: str
    config_sha256: str


class MergedWeights(ChangedWeights):
    """``Shards`` with an adapter; of all else the shards' own."""

    def __init__(
        self, source: Shards | MergedWeights, adapter: Adapter, transforms: WeightTransforms
    ) -> None:
        super().__init__(source, adapter.changes, transforms)
        self.below, self.adapter = source, adapter

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what is below and of the adapter's two files."""
        parts = self.below.fingerprint, self.adapter.weights_sha256, self.adapter.config_sha256
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    @property
    def base_fingerprint(self) -> str:
        """That of the checkpoint without adapters."""
        return self.below.base_fingerprint

    @property
    def adapters(self) -> tuple[AdapterFacts, ...]:
        """Facts of the adapters, in the order that they were merged."""
        return (*self.below.adapters, facts_of(self.adapter))

    @property
    def notices(self) -> list[str]:
        """The shards' notices, then the adapter's."""
        return [*self.below.notices, *self.adapter.notices]

    @property
    def formats(self) -> Mapping[str, str]:
        """The stored types of matrices that are stored as codes and stay what they are."""
        return self._unchanged(self.below.formats)

    @property
    def imports(self) -> Mapping[str, Scheme]:
        """The schemes of the checkpoint's codes, of matrices that no adapter changes."""
        return self._unchanged(self.below.imports)

    @property
    def rounded(self) -> Collection[str]:
        """The matrices among ``imports`` whose codes are not quite the stored numbers."""
        return {name for name in self.below.rounded if name in self.imports}

    def codes(self, name: str, rows: Any) -> Codes:
        """``rows`` of a matrix that is among ``imports``."""
        if f"{name}.weight" in self.changes:
            raise ValueError(f"{name}: an adapter changes it, so it has no codes")
        return self.below.codes(name, rows)

    def _unchanged(self, found: Mapping[str, Kept]) -> dict[str, Kept]:
        return {name: each for name, each in found.items() if f"{name}.weight" not in self.changes}

    @property
    def files(self) -> Any:
        """The checkpoint's files."""
        return self.below.files

    @property
    def where(self) -> Any:
        """The checkpoint's file of each tensor."""
        return self.below.where


def merged(
    shards: Shards, model: Model, folders: Sequence[Path], transforms: WeightTransforms
) -> Shards | MergedWeights:
    """The weights with the adapters of some folders. Raises CheckpointError."""
    found: Shards | MergedWeights = shards
    for folder in folders:
        found = MergedWeights(found, open_adapter(folder, model), transforms)
    return found


def facts_of(adapter: Adapter) -> AdapterFacts:
    """An adapter's facts."""
    return AdapterFacts(
        adapter.name,
        "DoRA" if adapter.config.use_dora else "LoRA",
        adapter.config.r,
        adapter.config.lora_alpha,
        len(adapter.low_ranks),
        adapter.config.base,
        adapter.weights_sha256,
        adapter.config_sha256,
    )
