"""The weights of a checkpoint, in one or more safetensors files: checked, read as float32."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.safetensors import FLOATS, Entry, SafetensorsFile, row_blocks, unstack
from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import Weight
from slmkit.models.config import read_json
from slmkit.models.weight_transforms import WeightTransforms, transform_of
from slmkit.ops import Floats

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
BLOCK = 1 << 18  # elements read at a time: 1 MB as float32, within a core's cache
# Buffers in old checkpoints that are not weights.
IGNORED = re.compile(r"\.rotary_emb\.inv_freq$|\.masked_bias$")


class Shards:
    """Memory-mapped tensors by name.

    Every read raises CheckpointError for NaN or infinity. Implements the reference's ``Weights``.
    """

    def __init__(
        self,
        folder: Path,
        transforms: WeightTransforms | None = None,
        stacked: tuple[str, ...] = (),
    ) -> None:
        """Open all files of ``folder``. Raises CheckpointError for missing or duplicate tensors.

        ``transforms``: by ending of a tensor's name; applied to vectors only.
        ``stacked``: name endings of tensors of several matrices, each of which gets a name.
        """
        self.folder, self.transforms = folder, transforms or {}
        self.files = [SafetensorsFile(path) for path in _paths(folder)]
        for file in self.files:
            file.entries = _unstack_entries(file.entries, stacked)
        self.where: dict[str, SafetensorsFile] = {}
        for file in self.files:
            for name in file.entries:
                if name in self.where:
                    raise CheckpointError(
                        f"tensor {name} is in both {self.where[name].path.name} and "
                        f"{file.path.name}",
                        "remove the shards that do not belong to this model",
                    )
                self.where[name] = file

    def check(self, weights: Mapping[str, Weight], tied: bool) -> None:
        """Raise CheckpointError for a missing, unused or wrongly shaped tensor.

        ``weights``: by tensor name; with ``tied``, a stored copy of lm_head is accepted.
        """
        for name, weight in weights.items():
            self._check_one(name, weight)
        accepted = {"lm_head.weight"} if tied else set()
        extra = [name for name in self.where if name not in weights and name not in accepted]
        extra = sorted(name for name in extra if not IGNORED.search(name))
        if extra:
            raise CheckpointError(
                f"the checkpoint holds {len(extra)} tensors that its architecture does not use, "
                f"first {extra[0]}",
                "config.json and the weights are of different models, or the weights are adapted "
                "(LoRA) or quantized: merge or export them as a plain checkpoint",
            )

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
        if entry.dtype not in FLOATS:
            raise CheckpointError(
                f"tensor {name} is stored as {entry.dtype}",
                f"slmkit quantizes float weights itself: give it the {', '.join(FLOATS)} original",
            )

    def vector(self, tensor: str) -> Floats:
        """A vector or other tensor that is no matrix: flat, float32, transformed."""
        stored = self._finite(tensor, self.where[tensor].floats(tensor).reshape(-1))
        transform = transform_of(tensor, self.transforms)
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

    def forget(self, tensor: str) -> None:
        """Release a tensor's memory-mapped pages; they are read again on the next access."""
        self.where[tensor].forget(tensor)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the files' hashes, in order of file names."""
        digest = hashlib.sha256()
        for file in self.files:
            with open(file.path, "rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

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


def _paths(folder: Path) -> list[Path]:
    if (folder / INDEX).exists():
        return _indexed(folder)
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder} holds its weights as pickle ({pickles[0]}), which can run code when opened",
            "convert it once, where torch is installed, with the safe loader: "
            'python -c "import torch, safetensors.torch as s; w = torch.load('
            f"'{pickles[0]}', weights_only=True); "
            "s.save_file({k: v.clone() for k, v in w.items()}, 'model.safetensors')\"",
        )
    raise CheckpointError(
        f"{folder} has no {SINGLE} and no {INDEX}",
        "--model wants a Hugging Face checkpoint folder with safetensors weights",
    )


def _indexed(folder: Path) -> list[Path]:
    """The files that the index names; a name with a path in it is refused."""
    index = read_json(folder / INDEX)
    table = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise CheckpointError(f"{INDEX} has no weight_map of file names", "download it again")
    names = sorted(set(table.values()))
    for name in names:
        if not re.fullmatch(r"[\w.\-]+", name) or name in (".", ".."):
            raise CheckpointError(
                f"{INDEX} names the file {name!r}, which is not in the folder itself",
                "shards must lie beside their index",
            )
        if not (folder / name).exists():
            raise CheckpointError(
                f"the shard {name} is missing ({len(names)} are named in {INDEX})",
                "the download is incomplete: fetch it again",
            )
    return [folder / name for name in names]
