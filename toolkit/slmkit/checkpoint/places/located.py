"""The folder behind ``--model``: a folder itself, a GGUF file, a model of the hub."""

from __future__ import annotations

from pathlib import Path

from slmkit.checkpoint.formats.gguf.unpack import ENDING, gguf_name, unpacked
from slmkit.checkpoint.places.hub import fetched, hub_model
from slmkit.errors import CheckpointError


def located(model: Path) -> Path:
    """The folder of a model. Raises CheckpointError.

    A path to anything else that exists is returned as it is.
    """
    asked = hub_model(model)
    if asked is not None:
        return located(fetched(asked))
    if model.suffix == ENDING and not model.is_dir():
        if not model.is_file():
            raise CheckpointError(f"there is no file {model}", "give the path of a GGUF file")
        return unpacked(model)
    if model.is_dir() and not any(model.glob("*.safetensors")):
        files = sorted(model.glob(f"*{ENDING}"))
        names = sorted({gguf_name(path) for path in files})
        own = any(path.is_symlink() for path in files) and (model / "config.json").exists()
        if len(names) > 1:
            raise CheckpointError(
                f"{model} holds several GGUF models: {', '.join(names)}",
                f"name one file: --model {files[0]}",
            )
        if names and not own:
            return unpacked(files[0])
    return model
