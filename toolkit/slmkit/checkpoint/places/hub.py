"""Models of the Hugging Face hub by their names, through ``huggingface_hub`` and its cache.

Only the files that are needed are fetched: config, tokenizer, card, and the weights of one format.
Nothing that a repository holds is executed. Tokens, endpoint and offline mode are the library's
own: HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmkit.checkpoint.model_card import CARD
from slmkit.checkpoint.named_templates import MORE
from slmkit.checkpoint.tokenizer import FILES
from slmkit.checkpoint.weight_files import INDEX, SINGLE
from slmkit.errors import CheckpointError

NAME = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+?)(/(?P<file>[\w./-]+\.gguf))?(@(?P<revision>[\w./-]+))?"
)
SNAPSHOTS = "snapshots"
SMALL = ("config.json", CARD, *FILES, f"{MORE}/*.jinja", "calibration.jsonl")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
QUANTIZED = ("quantize_config.json", "quant_config.json")  # of GPTQ and AWQ
HEADER = 1 << 20  # bytes of a file that are asked for at once


@dataclass(frozen=True)
class HubModel:
    """A model of the hub: ``org/name``, ``org/name@revision`` or ``org/name/FILE.gguf``."""

    repo: str
    revision: str | None = None
    file: str | None = None  # one of several GGUF files

    def __str__(self) -> str:
        return self.repo + (f"@{self.revision}" if self.revision else "")


def hub_model(path: Path) -> HubModel | None:
    """The model that a path which does not exist names; None if it can name none."""
    found = NAME.fullmatch(path.as_posix())
    if path.exists() or found is None or ".." in path.parts or found["repo"].endswith(".gguf"):
        return None
    return HubModel(found["repo"], found["revision"], found["file"])


def repository_name(folder: Path) -> str | None:
    """The repository's name of a folder in the library's cache: ``name`` of ``org/name``."""
    if folder.parent.name != SNAPSHOTS or not folder.parent.parent.name.startswith("models--"):
        return None
    return folder.parent.parent.name.rsplit("--", 1)[-1]


def fetched(model: HubModel) -> Path:
    """The folder of a model in the library's cache, or a GGUF file in it. Raises CheckpointError.

    Without network, what an earlier call has fetched.
    """
    import huggingface_hub

    with _explained(model):
        known = _listed(model)
        wanted = [model.file or "config.json"]
        if known is not None:
            wanted = needed(model, *known, _index(model))
        folder = huggingface_hub.snapshot_download(
            model.repo,
            revision=model.revision,  # by its name: so it is found again without network
            allow_patterns=wanted,
            local_files_only=known is None,
        )
    return Path(folder) / model.file if model.file else Path(folder)


def needed(
    model: HubModel, commit: str, names: Sequence[str], index: Callable[[str], dict[str, Any]]
) -> list[str]:
    """The files of a repository that a build reads. Raises CheckpointError if none has weights.

    ``names``: all of them; ``index``: reads the list of shards of a commit.
    """
    small = [
        name
        for name in names
        if any(fnmatch.fnmatchcase(name, each) for each in (*SMALL, *QUANTIZED, *ADAPTER))
    ]
    if model.file:
        part = re.sub(r"-\d{5}-of-(\d{5})\.gguf$", r"-?????-of-\1.gguf", model.file)
        return [*small, *fnmatch.filter(names, part)]
    if SINGLE in names:
        return [*small, SINGLE]
    if INDEX in names:
        shards = index(commit).get("weight_map", {}).values()
        return [*small, INDEX, *sorted({name for name in shards if name in names})]
    files = [name for name in names if name.endswith(".gguf")]
    stems = sorted({re.sub(r"-\d{5}-of-\d{5}\.gguf$", ".gguf", name) for name in files})
    if len(stems) == 1:
        return [*small, *files]
    if stems:
        raise CheckpointError(
            f"{model} holds several GGUF files: {', '.join(stems[:20])}",
            f"name one: --model {model.repo}/{sorted(files)[0]}",
        )
    if any(name in names for name in ADAPTER):
        return small
    raise CheckpointError(
        f"{model} holds no safetensors and no GGUF weights",
        "choose another repository of the model",
    )


def small_files(model: HubModel) -> tuple[Path, str, tuple[str, ...]]:
    """A folder with config.json and its like alone, the commit, and the names of all files."""
    import huggingface_hub

    with _explained(model):
        known = _listed(model)
        if known is None:
            raise CheckpointError(f"the hub cannot be reached, and {model} is needed", ONLINE)
        commit, names = known
        wanted = [name for name in ("config.json", *QUANTIZED, INDEX) if name in names]
        folder = huggingface_hub.snapshot_download(
            model.repo, revision=commit, allow_patterns=wanted or ["-"]
        )
    return Path(folder), commit, names


def reader(model: HubModel, commit: str, name: str) -> tuple[Callable[[int], bytes], int]:
    """A function that gives the first bytes of a file by range requests, and the file's size."""
    import huggingface_hub

    with _explained(model):
        system = huggingface_hub.HfFileSystem()
        place = f"{model.repo}@{commit}/{name}"
        size = int(system.info(place)["size"])
    seen = bytearray()

    def read(count: int) -> bytes:
        if count > len(seen):
            stop = min(size, max(count, len(seen) + HEADER))
            with _explained(model):
                seen.extend(system.cat_file(place, start=len(seen), end=stop))
        return bytes(seen)

    return read, size


ONLINE = "check the network and HF_ENDPOINT, or give a folder that was fetched before"


def _listed(model: HubModel) -> tuple[str, tuple[str, ...]] | None:
    """The commit and the names of all files; None without network."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        found = huggingface_hub.HfApi().model_info(model.repo, revision=model.revision)
    except (errors.OfflineModeIsEnabled, *_no_network()):
        return None
    return str(found.sha), tuple(each.rfilename for each in found.siblings or ())


def _index(model: HubModel) -> Callable[[str], dict[str, Any]]:
    import huggingface_hub

    def read(commit: str) -> dict[str, Any]:
        path = huggingface_hub.hf_hub_download(model.repo, INDEX, revision=commit)
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        return values if isinstance(values, dict) else {}

    return read


def _no_network() -> tuple[type[Exception], ...]:
    """The errors of a connection that cannot be made, by the library's own HTTP client."""
    from huggingface_hub import errors

    client = getattr(errors, "HTTPError", None)
    module = __import__(client.__module__.split(".")[0]) if client else None
    names = ("ConnectError", "TimeoutException")
    found = [getattr(module, name) for name in names if hasattr(module, name)]
    return (ConnectionError, TimeoutError, *found)


@contextlib.contextmanager
def _explained(model: HubModel) -> Iterator[None]:
    """Turn the library's errors into one sentence."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{model} asks for its license to be accepted", "accept it on its page, set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(
            f"{model.repo} has no revision {model.revision!r}", "name a branch, tag or commit"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"there is no folder {model}, and no such model on the hub (or it is private)",
            "--model wants a folder, a .gguf file or org/name; for a private model set HF_TOKEN",
        ) from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, *_no_network()):
        raise CheckpointError(
            f"there is no folder {model}; as a model of the hub it was not fetched before, and the "
            "hub cannot be reached",
            ONLINE,
        ) from None
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{model} cannot be fetched from the hub: {reason}", ONLINE) from None
