"""The model card of a checkpoint: README.md with a YAML head, as the Hugging Face hub has it."""

from __future__ import annotations

from pathlib import Path

import yaml

FENCE = "---"
MOST = 1 << 20  # characters of a card that are read


def license_of(folder: Path) -> str:
    """The license that the card names; empty if there is none, or no card that can be read."""
    try:
        with open(folder / "README.md", encoding="utf-8") as file:
            text = file.read(MOST)
        _, head, _ = text.split(FENCE, 2) if text.startswith(FENCE) else ("", "", "")
        values = yaml.safe_load(head)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return ""
    found = values.get("license") if isinstance(values, dict) else None
    return found if isinstance(found, str) else ""
