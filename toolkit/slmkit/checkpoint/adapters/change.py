"""How an adapter changes one weight, a few rows at a time, in float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from slmkit.checkpoint.safetensors import SafetensorsFile
from slmkit.checkpoint.scaled_weights import Factors, Source
from slmkit.errors import CheckpointError
from slmkit.models.weight_transforms import WeightTransforms, transform_of
from slmkit.ops import Floats


@dataclass(frozen=True, eq=False)
class LowRank:
    """A change of a matrix: ``up @ down``, with the adapter's scale in ``up``."""

    up: Floats  # (N, r)
    down: Floats  # (r, K)

    def rows(self, rows: Any) -> Floats:
        """The change of some rows. (len(rows), K)"""
        found: Floats = self.up[rows] @ self.down
        return found

    @property
    def is_zero(self) -> bool:
        """Whether it changes nothing."""
        return not (self.up.any() and self.down.any())

    def scaled(self, factors: Factors | None) -> LowRank:
        """The change of a weight that has ``factors`` on its outputs and inputs."""
        if factors is None:
            return self
        up = self.up if factors.outputs is None else self.up * factors.outputs[:, None]
        return LowRank(up, self.down if factors.inputs is None else self.down * factors.inputs)


@dataclass(frozen=True, eq=False)
class Change:
    """The work of an adapter on one weight: a new one in its place, then a change of low rank,
    then DoRA's magnitudes."""

    low_rank: LowRank | None = None
    magnitude: Floats | None = None  # (N,): the length of each row after the change
    file: SafetensorsFile | None = None  # holds the weight that takes the place of the base's
    stored: str = ""  # its name there
    about: str = ""  # the weight's name, for messages

    def new_rows(self, rows: Any = slice(None)) -> Floats | None:
        """Rows of the weight that takes the base's place, if one does. Raises CheckpointError."""
        return (
            None if self.file is None else finite(self.file.floats(self.stored, rows), self.stored)
        )

    def of(self, values: Floats, rows: Any) -> Floats:
        """Rows of the base's weight, changed. (len(rows), K)

        DoRA as PEFT merges it: magnitude / norm of the row times the row, in float32.
        """
        new = self.new_rows(rows)
        values = values if new is None else new
        if self.low_rank is not None:
            values = values + self.low_rank.rows(rows)
        if self.magnitude is not None:
            with np.errstate(divide="ignore", invalid="ignore"):  # a row of zeros: refused below
                lengths = np.linalg.norm(values, axis=1)
                values = values * (self.magnitude[rows] / lengths)[:, None]
        return finite(values, self.stored or self.about)


class ChangedWeights:
    """Another source's weights with ``changes``, by tensor name. Implements ``Source``, and the
    reference's ``Weights``."""

    def __init__(
        self,
        source: Source,
        changes: Mapping[str, Change],
        transforms: WeightTransforms | None = None,
    ) -> None:
        """``transforms``: of stored vectors, as the source applies them to its own."""
        self.source, self.changes, self.transforms = source, changes, transforms or {}

    def vector(self, tensor: str) -> Floats:
        """A norm, bias or other vector, flat, float32."""
        change = self.changes.get(tensor)
        new = change.new_rows() if change else None
        if new is None:
            return self.source.vector(tensor)
        transform = transform_of(tensor, self.transforms)
        return transform(new.reshape(-1)) if transform else new.reshape(-1)

    def rows(self, tensor: str, rows: Any) -> Floats:
        """``rows`` of a matrix, (len(rows), in) float32."""
        values, change = self.source.rows(tensor, rows), self.changes.get(tensor)
        return values if change is None else change.of(values, rows)

    def blocks(self, tensor: str) -> Iterator[tuple[int, Floats]]:
        """A matrix in consecutive blocks of rows: (first row, block)."""
        change = self.changes.get(tensor)
        for first, block in self.source.blocks(tensor):
            rows = slice(first, first + len(block))
            yield first, block if change is None else change.of(block, rows)

    def forget(self, tensor: str) -> None:
        """Release a tensor's memory."""
        self.source.forget(tensor)


def finite(values: Floats, tensor: str) -> Floats:
    """``values``, or CheckpointError for NaN and infinity."""
    if not np.isfinite(values).all():
        raise CheckpointError(
            f"the adapter's tensor {tensor} holds NaN or infinity",
            "the training diverged or the file is damaged: no artifact of it would work",
        )
    return values
