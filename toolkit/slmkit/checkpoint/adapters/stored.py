"""The tensors of adapter_model.safetensors, by the module and the part that each is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from slmkit.checkpoint.safetensors import FLOATS, SafetensorsFile
from slmkit.checkpoint.tensor_names import left_out, renamed
from slmkit.errors import CheckpointError

TENSORS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
PREFIX = "base_model.model."
# Parts of a module by the ends of their names; the longer of two that fit comes first.
DOWN, UP, TABLE_DOWN, TABLE_UP = "lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"
MAGNITUDE, WEIGHT, BIAS = "lora_magnitude_vector", "weight", "bias"
ENDINGS = {
    f"{part}{adapter}{ending}": part
    for part, endings in {
        DOWN: (".weight",),
        UP: (".weight",),
        TABLE_DOWN: ("",),
        TABLE_UP: ("",),
        MAGNITUDE: (".weight", ""),
    }.items()
    for adapter in ("", ".default")
    for ending in endings
} | {"base_layer.weight": WEIGHT, "base_layer.bias": BIAS, "weight": WEIGHT, "bias": BIAS}
WHOLE = "give the whole adapter folder, as PEFT's save_pretrained wrote it"
Modules = dict[str, dict[str, str]]  # module -> part -> the tensor's stored name


def open_tensors(folder: Path) -> SafetensorsFile:
    """The adapter's tensors. Raises CheckpointError for a missing file, a pickle, no floats."""
    path = folder / TENSORS
    if not path.exists() and (folder / PICKLE).exists():
        raise CheckpointError(
            f"{folder} holds its adapter as pickle ({PICKLE}), which can run code when opened",
            "save it again with PEFT, which now writes safetensors by default",
        )
    if not path.exists():
        raise CheckpointError(f"{folder} has no {TENSORS}", WHOLE)
    file = SafetensorsFile(path)
    for name, entry in file.entries.items():
        if entry.dtype not in FLOATS:
            raise CheckpointError(
                f"the adapter's tensor {name} is stored as {entry.dtype}",
                f"slmkit reads adapters stored as {', '.join(FLOATS)}",
            )
    return file


def modules_of(names: Sequence[str]) -> Modules:
    """Parts by module, as the file names it. Raises CheckpointError for a tensor of no known
    part, and for two of one."""
    found: Modules = {}
    for name in names:
        plain = name.removeprefix(PREFIX)
        ending = next((each for each in ENDINGS if plain.endswith(f".{each}")), None)
        if ending is None:
            raise CheckpointError(
                f"the adapter's tensor {name} is of no kind that slmkit merges",
                "it merges LoRA's A and B, DoRA's magnitudes, whole weights and biases",
            )
        parts = found.setdefault(plain.removesuffix(f".{ending}"), {})
        part = ENDINGS[ending]
        if part in parts:
            raise CheckpointError(
                f"the adapter's tensors {parts[part]} and {name} are the same", WHOLE
            )
        parts[part] = name
    return found


def by_model_names(
    modules: Modules, known: Sequence[str], layers: int
) -> tuple[Modules, dict[str, str], list[str]]:
    """Parts by the model's names of modules, what the file calls each, and notices.

    ``known``: the model's modules. Raises CheckpointError for one that the model lacks.
    """
    changes, _ = renamed(modules, known)
    named = {changes.get(name, name): parts for name, parts in modules.items()}
    extra = [f"{name}.weight" for name in sorted(named.keys() - set(known))]
    unknown, notices = left_out(extra, layers, 0)
    if unknown:
        raise CheckpointError(
            f"the adapter changes {unknown[0].removesuffix('.weight')}, which the model does not "
            "have" + (f", and {len(unknown) - 1} more" if unknown[1:] else ""),
            "the adapter is of another model: adapter_config.json names the one that it was "
            "trained on as base_model_name_or_path",
        )
    calls = {changes.get(name, name): name for name in modules}
    return {name: parts for name, parts in named.items() if name in set(known)}, calls, notices


def spelled(known: Sequence[str], calls: Mapping[str, str]) -> dict[str, str]:
    """The model's modules by the names that they had where the adapter was trained: text parts of
    larger models have another beginning there."""
    before, after = next(
        (
            (stored[: len(stored) - common], name[: len(name) - common])
            for name, stored in calls.items()
            if name in known and (common := _common_end(name, stored)) < len(stored)
        ),
        ("", ""),
    )
    if before == after:
        return {name: name for name in known}
    return {
        before + name.removeprefix(after) if name.startswith(after) else name: name
        for name in known
    }


def _common_end(one: str, other: str) -> int:
    """How many characters at the ends of two names are the same, in whole parts between dots."""
    length = 0
    for left, right in zip(reversed(one.split(".")), reversed(other.split(".")), strict=False):
        if left != right:
            break
        length += len(left) + 1
    return min(length, len(one), len(other))
