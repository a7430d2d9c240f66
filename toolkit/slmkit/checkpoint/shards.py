"""The weights of a checkpoint, in one or more safetensors files: checked, read as float32."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.formats.tensor_file import CodedFile, TensorFile
from slmkit.checkpoint.formats.weights import OpenWeights
from slmkit.checkpoint.safetensors import FLOATS, Entry, row_blocks, unstack
from slmkit.checkpoint.tensor_names import left_out, refuse_unknown, renamed
from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import Weight
from slmkit.models.weight_transforms import WeightTransforms, transform_of
from slmkit.ops import Floats
from slmkit.quant.codes import Codes
from slmkit.recipe.scheme import Scheme

BLOCK = 1 << 18  # elements read at a time: 1 MB as float32, within a core's cache
HEAD = "lm_head.weight"


class Shards:
    """Memory-mapped tensors by name.

    Every read raises CheckpointError for NaN or infinity. Implements the reference's ``Weights``.
    """

    def __init__(
        self,
        weights: OpenWeights,
        transforms: WeightTransforms | None = None,
        stacked: tuple[str, ...] = (),
    ) -> None:
        """Take the tensors of all files. Raises CheckpointError for duplicate ones.

        ``transforms``: by ending of a tensor's name; applied to vectors only.
        ``stacked``: name endings of tensors of several matrices, each of which gets a name.
        """
        self.files, self.transforms = weights.files, transforms or {}
        self.adapters: tuple[Any, ...] = ()  # none is merged here: ``checkpoint.adapters`` does
        self.notices = list(weights.notices)  # what a user should know about files and names
        for file in self.files:
            file.entries = _unstack_entries(file.entries, stacked)
        self.where: dict[str, TensorFile] = {}
        for file in self.files:
            for name in file.entries:
                if name in self.where:
                    raise CheckpointError(
                        f"tensor {name} is in both {self.where[name].name} and {file.name}",
                        "remove the shards that do not belong to this model",
                    )
                self.where[name] = file

    def check(
        self, weights: Mapping[str, Weight], tied: bool, layers: int = 0, predicting: int = 0
    ) -> None:
        """Give tensors the model's names, and check that each is there, used and of its shape.

        ``weights``: by tensor name; with ``tied``, an equal copy as lm_head is accepted.
        ``layers``, ``predicting``: of the model, and after them to predict further tokens.
        Raises CheckpointError. What was left out or renamed is added to ``notices``.
        """
        names = {*weights, HEAD} if tied else set(weights)
        changes, notices = renamed(self.where, names)
        for stored, name in changes.items():
            self._rename(stored, name)
        self.notices += notices
        self._check_head(weights, tied)
        for name, weight in weights.items():
            self._check_one(name, weight)
        extra = sorted(name for name in self.where if name not in names)
        unknown, notices = left_out(extra, layers, predicting)
        refuse_unknown(unknown)
        self.notices += notices

    def _rename(self, stored: str, name: str) -> None:
        file = self.where[name] = self.where.pop(stored)
        file.entries[name] = file.entries.pop(stored)

    def _check_head(self, weights: Mapping[str, Weight], tied: bool) -> None:
        """Of a tied pair, one may be stored or both; two that differ are refused.

        transformers 4 takes the embedding then, transformers 5 the head.
        """
        tables = [name for name, weight in weights.items() if weight.kind == "table"]
        if not tied or HEAD not in self.where or HEAD in weights or not tables:
            return
        (table,) = tables
        if table not in self.where:
            self._rename(HEAD, table)
            self.notices.append(f"{HEAD} is read as {table}: the two are tied, and one is stored")
        elif not self._equal(table, HEAD):
            raise CheckpointError(
                f"{HEAD} differs from {table}, but tie_word_embeddings is true: transformers 4 "
                "computes with the embedding alone, transformers 5 with both",
                "if the head was trained, set tie_word_embeddings to false; if not, remove the "
                "tensor from the file",
            )

    def _equal(self, first: str, second: str) -> bool:
        """Whether two matrices hold the same numbers."""
        one, other = (self.where[name].entries[name] for name in (first, second))
        if one.shape != other.shape or not (one.is_float and other.is_float):
            return False
        for block in row_blocks(one.shape[0], math.prod(one.shape[1:]), BLOCK):
            left, right = (self.where[name].floats(name, block) for name in (first, second))
            if not np.array_equal(left, right, equal_nan=True):
                return False
        self.forget(first)
        self.forget(second)
        return True

    def _check_one(self, name: str, weight: Weight) -> None:
        if name not in self.where:
            raise CheckpointError(
                f"the checkpoint has no tensor {name}",
                "a shard is missing, or config.json is of another model "
                "(for a tied lm_head: tie_word_embeddings)",
            )
        entry = self.where[name].entries[name]
        shape = weight.stored or weight.shape
        if entry.shape != shape:
            raise CheckpointError(
                f"tensor {name} has the shape {entry.shape}, config.json says {shape}",
                "config.json and the weights are of different models",
            )
        if not entry.is_float:
            raise CheckpointError(
                f"tensor {name} is stored as {entry.dtype}",
                f"slmkit quantizes float weights itself: give it the {', '.join(FLOATS)} original",
            )

    def vector(self, tensor: str) -> Floats:
        """A vector or other tensor that is no matrix: flat, float32, transformed."""
        stored = self._finite(tensor, self.where[tensor].floats(tensor).reshape(-1))
        file = self.where[tensor]
        done = isinstance(file, CodedFile) and file.transformed
        transform = None if done else transform_of(tensor, self.transforms)
        return transform(stored) if transform else stored

    def rows(self, tensor: str, rows: NDArray[np.int64] | slice) -> Floats:
        """``rows`` of a matrix, float32."""
        return self._finite(tensor, self.where[tensor].floats(tensor, rows))

    def blocks(self, tensor: str, elements: int = BLOCK) -> Iterator[tuple[int, Floats]]:
        """A matrix in consecutive blocks of rows, float32: (first row, block)."""
        rows, width = self.where[tensor].entries[tensor].shape
        for block in row_blocks(rows, width, elements):
            yield block.start, self.rows(tensor, block)
            self.forget(tensor)

    @cached_property
    def imports(self) -> Mapping[str, Scheme]:
        """The schemes of the codes that the checkpoint brings, by matrix name. They are exactly
        what is stored, except for those in ``rounded``. It may read all scales."""
        found = {}
        for tensor, file in self.where.items():
            if isinstance(file, CodedFile) and file.entries[tensor].coded:
                scheme = file.scheme(tensor)
                if scheme is not None:
                    found[tensor.removesuffix(".weight")] = scheme
        return found

    @cached_property
    def rounded(self) -> Collection[str]:
        """The matrices among ``imports`` whose codes have scales or zero points that are not quite
        the stored ones. It may read all of them."""
        files = {name: self.where[f"{name}.weight"] for name in self.imports}
        return frozenset(
            name
            for name, file in files.items()
            if isinstance(file, CodedFile) and file.rounded(f"{name}.weight")
        )

    @property
    def formats(self) -> Mapping[str, str]:
        """The stored types of matrices that are stored as codes, by matrix name."""
        entries = {tensor: file.entries[tensor] for tensor, file in self.where.items()}
        return {
            tensor.removesuffix(".weight"): entry.dtype
            for tensor, entry in entries.items()
            if entry.coded
        }

    def codes(self, name: str, rows: Any) -> Codes:
        """``rows`` of a matrix that is among ``imports``. Raises CheckpointError for others."""
        file = self.where[f"{name}.weight"]
        if name not in self.imports or not isinstance(file, CodedFile):
            raise CheckpointError(
                f"the recipe takes {name} from the checkpoint's codes, but it has none of it",
                "method: imported is for checkpoints that are quantized already",
            )
        return file.codes(f"{name}.weight", rows)

    def forget(self, tensor: str) -> None:
        """Release a tensor's memory-mapped pages; they are read again on the next access."""
        self.where[tensor].forget(tensor)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the files' hashes, in order of file names."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(bytes.fromhex(file.fingerprint()))
        return digest.hexdigest()

    @property
    def base_fingerprint(self) -> str:
        """The fingerprint of the checkpoint without adapters: this one."""
        return self.fingerprint

    def _finite(self, tensor: str, values: Floats) -> Floats:
        if not np.isfinite(values).all():
            kind = "NaN" if np.isnan(values).any() else "infinity"
            raise CheckpointError(
                f"tensor {tensor} holds {kind}",
                "the training diverged or the file is damaged: no artifact of it would work",
            )
        return values


def _unstack_entries(entries: Mapping[str, Entry], stacked: tuple[str, ...]) -> dict[str, Entry]:
    result: dict[str, Entry] = {}
    for name, entry in entries.items():
        is_stacked = name.endswith(stacked) and len(entry.shape) == 3
        result |= unstack(name, entry) if is_stacked else {name: entry}
    return result
