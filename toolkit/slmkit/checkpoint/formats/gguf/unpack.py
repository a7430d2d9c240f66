"""A GGUF file as a checkpoint's folder: what metadata say as files, and links to the weights.

The folder lasts as long as the process, and holds a few megabytes: weights stay where they are.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.checkpoint.formats.gguf.config import ARCHITECTURE, MARK, Source, config_of
from slmkit.checkpoint.formats.gguf.file import GgufFile
from slmkit.checkpoint.formats.gguf.names import OF_ROPE, places
from slmkit.checkpoint.formats.gguf.tokenizer import tokenizer_of
from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import Model
from slmkit.models.config import Config
from slmkit.ops import Floats
from slmkit.system.scratch import lasting_folder

ENDING = ".gguf"
PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
BESIDE = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_unpacked: dict[tuple[str, int, int], Path] = {}


def gguf_name(path: Path) -> str:
    """The model's name: the file's, without the part's number."""
    return PART.sub("", path.name).removesuffix(ENDING)


def parts_of(path: Path) -> list[Path]:
    """All files of a model, the first one first. Raises CheckpointError if one is missing."""
    part = PART.search(path.name)
    if part is None:
        return [path]
    count, stem = int(part[2]), PART.sub("", path.name)
    found = [path.with_name(f"{stem}-{n:05d}-of-{count:05d}.gguf") for n in range(1, count + 1)]
    for each in found:
        if not each.is_file():
            raise CheckpointError(
                f"{each.name} is missing: {path.name} is one of {count} parts",
                "put all parts into one folder",
            )
    return found


def unpacked(path: Path) -> Path:
    """The folder of a GGUF file. Raises CheckpointError."""
    paths = parts_of(path)
    facts = os.stat(paths[0])
    key = str(paths[0].resolve()), facts.st_size, facts.st_mtime_ns
    if key not in _unpacked or not _unpacked[key].is_dir():
        _unpacked[key] = _unpack(paths)
    return _unpacked[key]


def open_parts(folder: Path, architecture: str, model: Model) -> list[GgufFile]:
    """The weights of an unpacked folder, by the model's names. Raises CheckpointError."""
    spec = model.spec
    found = places(model.weights, architecture, spec.layers, spec.heads, spec.kv_heads)
    files = [GgufFile(path) for path in sorted(folder.glob(f"*{ENDING}"))]
    for file in files:
        file.rename(found, model.weights)
    return files


def metadata_of(values: dict[str, Any], where: str) -> tuple[str, Config]:
    """A header's architecture, and its metadata with that prefix taken off."""
    config = Config(values, f"metadata of {where}")
    architecture = config.string(ARCHITECTURE)
    prefix = f"{architecture}."
    plain = {key.removeprefix(prefix): value for key, value in values.items()}
    return architecture, Config(plain, config.where)


def _unpack(paths: list[Path]) -> Path:
    files = [GgufFile(path) for path in paths]
    architecture, metadata = metadata_of(files[0].header.metadata, paths[0].name)
    _check_count(metadata, len(paths))
    shapes = {name: entry.shape for file in files for name, entry in file.raw.items()}
    source = Source(architecture, metadata, shapes, _factors(files))
    documents = {"config.json": config_of(source), **_tokenizer(paths[0], metadata)}
    folder = lasting_folder() / gguf_name(paths[0])
    folder.mkdir()
    for name, values in documents.items():
        text = json.dumps(values, ensure_ascii=False, indent=1)
        (folder / name).write_text(text, encoding="utf-8")
    for name in BESIDE if "tokenizer.json" not in documents else ():
        beside = paths[0].with_name(name)
        if beside.is_file():
            (folder / name).write_bytes(beside.read_bytes())
    for path in paths:
        (folder / path.name).symlink_to(path.resolve())
    license_ = metadata.values.get("general.license")
    if isinstance(license_, str) and re.fullmatch(r"[\w.+-]{1,64}", license_):
        (folder / "README.md").write_text(f"---\nlicense: {license_}\n---\n", encoding="utf-8")
    return folder


def _tokenizer(path: Path, metadata: Config) -> dict[str, dict[str, Any]]:
    """The tokenizer's files; none if metadata has one that is not known, and one lies beside."""
    names = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
    try:
        return dict(zip(names, tokenizer_of(metadata), strict=True))
    except CheckpointError:
        if not path.with_name("tokenizer.json").is_file():
            raise
        return {}


def _factors(files: list[GgufFile]) -> dict[str, Floats]:
    """The tensors that are metadata of rope."""
    found = {}
    for file in files:
        for name in OF_ROPE:
            if name in file.raw and len(file.raw[name].shape) == 1:
                values = file.floats(name)
                if not (np.isfinite(values).all() and (values > 0).all()):
                    raise CheckpointError(f"{file.name}: {name} holds no factors", "download again")
                found[name] = values
    return found


def _check_count(metadata: Config, count: int) -> None:
    stated = metadata.integer("split.count", 0, least=0) or 1
    if stated != count:
        raise CheckpointError(
            f"{metadata.where}: the model has {stated} parts, and {count} are there by name",
            "give the first part, named NAME-00001-of-0000N.gguf, with the others beside it",
        )


__all__ = ["ENDING", "MARK", "gguf_name", "open_parts", "parts_of", "unpacked"]
