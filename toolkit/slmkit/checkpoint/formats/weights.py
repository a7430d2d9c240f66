"""Open the weights of a checkpoint's folder: choose the files and the format."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from slmkit.checkpoint.formats.tensor_file import TensorFile
from slmkit.checkpoint.safetensors import SafetensorsFile
from slmkit.checkpoint.weight_files import weight_files
from slmkit.models.config import Config


@dataclass
class OpenWeights:
    """The files with a model's tensors, and what a user should know about them."""

    files: list[TensorFile]
    notices: list[str] = field(default_factory=list)


def open_weights(folder: Path, config: Config | None = None) -> OpenWeights:
    """The tensors of a folder. Raises CheckpointError.

    ``config``: config.json, whose ``quantization_config`` tells a format that packs codes into
    several tensors. Such a format wraps the safetensors files as one ``CodedFile``.
    """
    chosen = weight_files(folder)
    return OpenWeights([SafetensorsFile(path) for path in chosen.paths], list(chosen.notices))
