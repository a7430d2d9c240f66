"""The weights of a checkpoint: one safetensors file or many, by name, checked, as float32."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.safetensors import FLOATS, Entry, SafetensorsFile, apart, row_blocks
from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import Weight
from slmkit.models.config import read_json
from slmkit.models.weight_transforms import WeightTransforms, transform_of
from slmkit.ops import Floats

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
BLOCK = 1 << 18  # numbers read at a time: 1 MB as float32, within a core's cache
# Buffers that old checkpoints carry and no architecture reads as a weight.
IGNORED = re.compile(r"\.rotary_emb\.inv_freq$|\.masked_bias$")


class Shards:
    """Tensors by name through memory maps. Reads check that every number is finite."""

    def __init__(
        self,
        folder: Path,
        transforms: WeightTransforms | None = None,
        stacked: tuple[str, ...] = (),
    ) -> None:
        """``stacked``: endings of tensors that hold several matrices, which get a name each."""
        self.folder, self.transforms = folder, transforms or {}
        self.files = [SafetensorsFile(path) for path in _paths(folder)]
        for file in self.files:
            file.entries = _named_apart(file.entries, stacked)
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
        """Compare with what the architecture names: nothing missing, wrong or left over."""
        for name, weight in weights.items():
            self._check_one(name, weight)
        spare = {"lm_head.weight"} if tied else set()  # a stored copy of the table
        extra = [name for name in self.where if name not in weights and name not in spare]
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
        """Numbers that are no matrix, float32, as the vocabulary means them."""
        stored = self._finite(tensor, self.where[tensor].floats(tensor).reshape(-1))
        reading = transform_of(tensor, self.transforms)
        return reading(stored) if reading else stored

    def rows(self, tensor: str, rows: NDArray[np.int64] | slice) -> Floats:
        """Some rows of a matrix, float32."""
        return self._finite(tensor, self.where[tensor].floats(tensor, rows))

    def blocks(self, tensor: str, numbers: int = BLOCK) -> Iterator[tuple[int, Floats]]:
        """A matrix in blocks of rows, (first row, block); pages are given back as it goes."""
        rows, width = self.where[tensor].entries[tensor].shape
        for block in row_blocks(rows, width, numbers):
            yield block.start, self.rows(tensor, block)
            self.where[tensor].forget(tensor)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all files, in order of their names."""
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


def _named_apart(entries: Mapping[str, Entry], stacked: tuple[str, ...]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for name, entry in entries.items():
        several = name.endswith(stacked) and len(entry.shape) == 3
        found |= apart(name, entry) if several else {name: entry}
    return found


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
    """The shards that the index names; a name must be a plain file of this folder."""
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
