"""The model card of a checkpoint: README.md with a YAML head, in the Hugging Face hub's form."""

from __future__ import annotations

from pathlib import Path

import yaml

from slmkit.system.plain_files import check_plain

CARD = "README.md"
FENCE = "---"
LIMIT = 1 << 20  # characters of a card that are read


def license_of(folder: Path) -> str:
    """The card's ``license``; empty if there is none or the card cannot be read."""
    try:
        check_plain(folder / CARD)
        with open(folder / CARD, encoding="utf-8") as file:
            text = file.read(LIMIT)
        _, head, _ = text.split(FENCE, 2) if text.startswith(FENCE) else ("", "", "")
        values = yaml.safe_load(head)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return ""
    name = values.get("license") if isinstance(values, dict) else None
    return name if isinstance(name, str) else ""
