"""A tokenizer beside an adapter that is not the model's: the model's is used, and that is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slmkit.models.config import read_json
from slmkit.system.plain_files import read_text

LIBRARY, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
OF_TRAINING = ("truncation", "padding")  # keys of tokenizer.json that a trainer changes
LONGEST = 1 << 24  # bytes of a chat template


def tokenizer_notices(adapter: Path, model: Path) -> list[str]:
    """Sentences for a user. Raises CheckpointError for a file that cannot be read."""
    different = []
    if _differ(_library(adapter), _library(model)):
        different.append(LIBRARY)
    if _differ(_template(adapter), _template(model)):
        different.append("chat template")
    return [
        f"the {each} beside the adapter {adapter.resolve().name} differs from the model's, which "
        "is used: copy it into the model's folder if the adapter was trained with it"
        for each in different
    ]


def _differ(one: Any, other: Any) -> bool:
    return one is not None and one != other


def _library(folder: Path) -> Any:
    if not (folder / LIBRARY).is_file():
        return None
    values = read_json(folder / LIBRARY)
    if not isinstance(values, dict):
        return values
    return {key: value for key, value in values.items() if key not in OF_TRAINING}


def _template(folder: Path) -> Any:
    if (folder / TEMPLATE).is_file():
        return read_text(folder / TEMPLATE, LONGEST)
    if not (folder / SETTINGS).is_file():
        return None
    values = read_json(folder / SETTINGS)
    return values.get("chat_template") if isinstance(values, dict) else None
