"""Which files of a checkpoint's folder hold its weights: the same ones that transformers reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from slmkit.errors import CheckpointError
from slmkit.models.config import read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
ADAPTERS = (  # of peft, and of mlx-lm
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "adapters.safetensors",
)
MERGE = (
    "--adapter FOLDER merges an adapter of PEFT into the checkpoint that --model names; "
    "for the model without it, move the adapter's files away"
)


@dataclass(frozen=True)
class WeightFiles:
    """The files to read, and what a user should know about the others."""

    paths: tuple[Path, ...]
    notices: tuple[str, ...] = ()


def weight_files(folder: Path, adapted: bool = False) -> WeightFiles:
    """Choose the files: model.safetensors, else the shards that the index names.

    ``adapted``: an adapter in the folder is known, and merged.

    Raises CheckpointError for another adapter, for pickles alone, and for a missing shard.
    """
    if not adapted:
        _refuse_adapters(folder)
    if (folder / SINGLE).exists():
        paths = [folder / SINGLE]
    elif (folder / INDEX).exists():
        paths = _indexed(folder)
    else:
        raise _none(folder)
    known = {*paths, *(folder / name for name in ADAPTERS if adapted)}
    others = sorted(set(folder.glob("*.safetensors")) - known)
    return WeightFiles(tuple(paths), tuple(_unread(paths, others, (folder / INDEX).exists())))


def _unread(paths: list[Path], others: list[Path], indexed: bool) -> list[str]:
    if not others:
        return []
    more = f" and {len(others) - 1} more" if others[1:] else ""
    stale = f" and {INDEX}" if indexed and paths[0].name == SINGLE else ""
    read = paths[0].name if len(paths) == 1 else f"the {len(paths)} files of {INDEX}"
    return [f"the weights are those of {read}; {others[0].name}{more}{stale} beside are not read"]


def _refuse_adapters(folder: Path) -> None:
    found = [name for name in ADAPTERS if (folder / name).exists()]
    if not found:
        return
    base = ""
    if found[0] == ADAPTERS[0]:
        values = read_json(folder / found[0])
        name = values.get("base_model_name_or_path") if isinstance(values, dict) else None
        base = f" for {name}" if isinstance(name, str) and name else ""
    raise CheckpointError(
        f"{folder} holds an adapter (LoRA){base}: {', '.join(found)}; transformers would apply it, "
        "the weights alone are another model",
        MERGE.replace("FOLDER", str(folder)),
    )


def _none(folder: Path) -> CheckpointError:
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        return CheckpointError(
            f"{folder} holds its weights as pickle ({pickles[0]}), which can run code when opened",
            "convert it once, where torch is installed, with the safe loader: "
            'python -c "import torch, safetensors.torch as s; w = torch.load('
            f"'{pickles[0]}', weights_only=True); "
            "s.save_file({k: v.clone() for k, v in w.items()}, 'model.safetensors')\"",
        )
    return CheckpointError(
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
