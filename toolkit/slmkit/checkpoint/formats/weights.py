"""Open the weights of a checkpoint's folder: choose the files and the format."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from slmkit.checkpoint.formats.gguf import unpack as gguf
from slmkit.checkpoint.formats.packed.file import open_packed
from slmkit.checkpoint.formats.tensor_file import TensorFile
from slmkit.checkpoint.safetensors import SafetensorsFile
from slmkit.checkpoint.weight_files import weight_files
from slmkit.interpreters.recorder import Model
from slmkit.models.config import Config


@dataclass
class OpenWeights:
    """The files with a model's tensors, and what a user should know about them."""

    files: list[TensorFile]
    notices: list[str] = field(default_factory=list)


def open_weights(
    folder: Path,
    config: Config | None = None,
    model: Model | None = None,
    adapted: bool = False,
) -> OpenWeights:
    """The tensors of a folder. Raises CheckpointError.

    ``model``: names and shapes, for formats with names of their own.
    ``adapted``: an adapter in the folder is known, and merged by whoever asks.
    ``config``: config.json, whose ``quantization_config`` tells a format that packs codes into
    several tensors. The matrices of such a format are one ``CodedFile`` more.
    """
    if config is not None and model is not None and config.has(gguf.MARK):
        return OpenWeights(list(gguf.open_parts(folder, config.string(gguf.MARK), model)))
    chosen = weight_files(folder, adapted)
    files = [SafetensorsFile(path) for path in chosen.paths]
    packed = open_packed(files, config, model.weights) if config and model else None
    return OpenWeights([*files, *([packed] if packed else [])], list(chosen.notices))
