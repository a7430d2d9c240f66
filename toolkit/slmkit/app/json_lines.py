"""JSON files of an app: a key on each line, and an item of a list on each line, for reviews."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel


def write_lines(values: BaseModel, path: Path) -> None:
    """Write an object; the same one gives the same bytes."""
    fields = values.model_dump(mode="json").items()
    lines = ",\n".join(f"{json.dumps(name)}: {_items(value)}" for name, value in fields)
    path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def _items(value: Any) -> str:
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return "[\n" + ",\n".join(f" {_text(each)}" for each in value) + "\n]"
    return _text(value)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
