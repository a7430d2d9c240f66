"""Which modules an adapter's config names, with their ranks: in a worker with limits, for names may
be regular expressions of a stranger, and one can run for ever.

The rules are those of PEFT 0.21: ``check_target_module_exists`` and ``get_pattern_key``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from slmkit.checkpoint.adapters.peft_config import CONFIG, LoraConfig
from slmkit.errors import CheckpointError
from slmkit.system.limited_worker import WORKER, LimitExceeded, Limits

ALL_LINEAR = "all-linear"
HERE = "slmkit.checkpoint.adapters.targets:find"
LIMITS = Limits(seconds=5)


def targets_of(
    config: LoraConfig, modules: Sequence[str], linears: Sequence[str]
) -> dict[str, tuple[int, float]]:
    """Rank and alpha of each module that the config names; ``linears``: those of "all-linear".

    Raises CheckpointError for an expression that is wrong, or that takes too long.
    """
    try:
        found = WORKER.call(HERE, [config.as_json(), list(modules), list(linears)], LIMITS)
    except LimitExceeded as error:
        raise CheckpointError(
            f"{CONFIG}: its names of modules cannot be compared with the model's: {error}",
            "write target_modules as a list of names, such as q_proj and v_proj",
        ) from None
    return {name: (rank, alpha) for name, (rank, alpha) in found.items()}


def find(values: dict[str, Any], modules: list[str], linears: list[str]) -> dict[str, list[Any]]:
    """In the worker: [rank, alpha] by module."""
    config = LoraConfig(**values)
    named = config.target_modules
    if isinstance(named, str) and named.lower() == ALL_LINEAR:
        chosen = [name for name in linears if not _left_out(config, name)]
    else:
        chosen = [name for name in modules if not _left_out(config, name) and _named(config, name)]
    return {
        name: [
            config.rank_pattern.get(_first(config.rank_pattern, name), config.r),
            config.alpha_pattern.get(_first(config.alpha_pattern, name), config.lora_alpha),
        ]
        for name in chosen
    }


def _left_out(config: LoraConfig, name: str) -> bool:
    if _matches(config.exclude_modules, name):
        return True
    return any(re.match(rf"(^|.*\.){each}($|\..*)", name) for each in config.modules_to_save)


def _named(config: LoraConfig, name: str) -> bool:
    if not _matches(config.target_modules, name):
        return False
    if isinstance(config.target_modules, str) or name in config.target_modules:
        return True  # as PEFT has it: layers_to_transform is not asked then
    return not config.layers_to_transform or _layer(config, name) in config.layers_to_transform


def _layer(config: LoraConfig, name: str) -> int | None:
    forms = [rf"(?:^|.*?\.){each}\.(\d+)\." for each in config.layers_pattern]
    for form in forms or [r".*?\.[^.]*\.(\d+)\."]:
        if found := re.match(form, name):
            return int(found[1])
    return None


def _matches(wanted: str | list[str], name: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(name == each or name.endswith(f".{each}") for each in wanted)


def _first(patterns: Iterable[str], name: str) -> str:
    return next((each for each in patterns if re.match(rf"(.*\.)?({each})$", name)), name)
