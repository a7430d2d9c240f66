"""adapter_config.json of a PEFT adapter: what it says about the arithmetic, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slmkit.errors import CheckpointError
from slmkit.models.config import Config, read_json

CONFIG = "adapter_config.json"
LONGEST_NAME = 96  # characters; the hub's names have at most that many
LARGEST_RANK = 1 << 16  # no matrix of a small model is as wide
KNOWN = frozenset(  # keys that are read here
    {
        "alpha_pattern",
        "bias",
        "exclude_modules",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "modules_to_save",
        "peft_type",
        "r",
        "rank_pattern",
        "target_modules",
        "use_dora",
        "use_rslora",
    }
)
# Of PEFT 0.21: keys that say nothing about the numbers of a trained adapter, whatever their value.
NEUTRAL = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",  # of a start, like the next ones: init_lora_weights tells whether it was so
        "ensure_weight_tying",  # tied tables are compared as they are stored
        "eva_config",
        "fan_in_fan_out",  # of GPT-2's Conv1D: PEFT itself ignores it for linears
        "inference_mode",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",  # only with use_qalora
        "revision",
        "runtime_config",
        "task_type",
    }
)
# Starts that leave the base as it was: the adapter is then all of the change. Of the others (PiSSA,
# OLoRA, CorDA, LoftQ) the base lost what the adapter began with.
STARTS = (True, False, "gaussian", "eva", "orthogonal")
WRITTEN = "--adapter wants a folder that PEFT's save_pretrained wrote"
MERGE = (
    "merge it where peft is installed (merge_and_unload, save_pretrained), and build what it saves"
)


@dataclass(frozen=True)
class LoraConfig:
    """The settings of a LoRA adapter, by PEFT's names."""

    r: int
    lora_alpha: float
    use_rslora: bool
    use_dora: bool
    target_modules: str | list[str]  # a regular expression, "all-linear", or endings of names
    exclude_modules: str | list[str]
    layers_to_transform: list[int]  # empty: all
    layers_pattern: list[str]
    rank_pattern: dict[str, int]  # by regular expression
    alpha_pattern: dict[str, float]
    modules_to_save: list[str]
    base: str = ""  # what it was trained on, as it says

    def as_json(self) -> dict[str, Any]:
        """For another process."""
        return asdict(self)


def read_lora_config(folder: Path) -> LoraConfig:
    """Read and check an adapter's config. Raises CheckpointError for everything that is no LoRA, or
    a kind of it that is computed otherwise."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {CONFIG}",
            WRITTEN,
        )
    values = read_json(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"{CONFIG} is not a JSON object", "download the file again")
    config = Config(values, CONFIG)
    _refuse_others(config)
    base = values.get("base_model_name_or_path")
    return LoraConfig(
        r=config.integer("r", most=LARGEST_RANK),
        lora_alpha=config.number("lora_alpha"),
        use_rslora=config.boolean("use_rslora", False),
        use_dora=config.boolean("use_dora", False),
        target_modules=_names(config, "target_modules", True),
        exclude_modules=_names(config, "exclude_modules", True),
        layers_to_transform=_layers(config),
        layers_pattern=_listed(config, "layers_pattern"),
        rank_pattern={
            key: Config(found, f"{CONFIG}: rank_pattern").integer(key, most=LARGEST_RANK)
            for found in [_pattern(config, "rank_pattern")]
            for key in found
        },
        alpha_pattern={
            key: Config(found, f"{CONFIG}: alpha_pattern").number(key)
            for found in [_pattern(config, "alpha_pattern")]
            for key in found
        },
        modules_to_save=_listed(config, "modules_to_save"),
        base=_model_name(base) if isinstance(base, str) else "",
    )


def _refuse_others(config: Config) -> None:
    values = config.values
    kind = values.get("peft_type")
    if kind != "LORA":
        mlx = ": it is one of mlx-lm" if "lora_parameters" in values else ""
        raise CheckpointError(
            f"{CONFIG}: peft_type is {_short(kind)}, expected 'LORA'{mlx}",
            "slmkit merges LoRA adapters of PEFT; of another kind, " + MERGE.removesuffix("it "),
        )
    start = values.get("init_lora_weights", True)
    if not any(type(start) is type(each) and start == each for each in STARTS):
        raise CheckpointError(
            f"{CONFIG}: init_lora_weights is {_short(start)}: such a start takes from the base's "
            "weights what the adapter begins with",
            f"save it as a plain LoRA (PEFT: path_initial_model_for_weight_conversion), or {MERGE}",
        )
    bias = values.get("bias", "none")
    if bias not in ("none", "all", "lora_only"):
        raise CheckpointError(
            f"{CONFIG}: bias is {_short(bias)}, expected none, all or lora_only", MERGE
        )
    for key, value in values.items():
        if key not in KNOWN | NEUTRAL and not _is_off(value):
            raise CheckpointError(
                f"{CONFIG}: {key} is {_short(value)}, which changes the adapter's arithmetic in a "
                "way that slmkit does not compute",
                MERGE,
            )


def _model_name(base: str) -> str:
    """The name of the model that it was trained on, for notices: of a path on the trainer's
    computer its last part, which is all that others may see."""
    is_path = base.startswith((".", "/", "~")) or "\\" in base or ":" in base
    name = re.split(r"[/\\]", base.rstrip("/\\"))[-1] if is_path else base
    return "".join(each for each in name if each.isprintable())[:LONGEST_NAME]


def _is_off(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _names(config: Config, key: str, pattern: bool) -> str | list[str]:
    """A list of names, or where ``pattern`` a string for all of them; null is none."""
    value = config.values.get(key)
    if value is None:
        return []
    if pattern and isinstance(value, str) and value:
        return value
    return config.strings(key)


def _listed(config: Config, key: str) -> list[str]:
    value = config.values.get(key)
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) else config.strings(key)


def _layers(config: Config) -> list[int]:
    value = config.values.get("layers_to_transform")
    if value is None:
        return []
    if isinstance(value, list):
        return config.integers("layers_to_transform")
    return [config.integer("layers_to_transform", least=0)]


def _pattern(config: Config, key: str) -> Mapping[str, Any]:
    found = config.section(key)
    return found.values if found else {}
