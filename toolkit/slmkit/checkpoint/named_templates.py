"""The chat templates of a checkpoint by name, and the choice of one as transformers makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmkit.errors import CheckpointError
from slmkit.system.plain_files import read_text

DEFAULT = "default"
LONGEST_FILE = 1 << 22  # bytes of a template
SETTINGS, FILE = "tokenizer_config.json", "chat_template.jinja"
MORE = "additional_chat_templates"  # a folder; transformers 5 writes a file for each name there


@dataclass(frozen=True)
class NamedTemplates:
    """Templates by name; a single one is named "default"."""

    texts: Mapping[str, str]

    def choose(self, name: str | None) -> str | None:
        """The template of a name, else the default, else none. Raises CheckpointError."""
        if name is None:
            return self.texts.get(DEFAULT)
        if name not in self.texts:
            raise CheckpointError(
                f"the checkpoint has no chat template {name!r}", f"it has: {self.names or 'none'}"
            )
        return self.texts[name]

    @property
    def names(self) -> str:
        """All names, for a sentence."""
        return ", ".join(self.texts)

    def missing(self) -> CheckpointError:
        """The error where a prompt needs a template and none was chosen."""
        if self.texts:
            return CheckpointError(
                f"the checkpoint has several chat templates and none is the default: {self.names}",
                f"choose one: slmkit build --chat-template {next(iter(self.texts))}",
            )
        return CheckpointError(
            "the checkpoint has no chat template",
            "use a plain prompt (--raw), or an instruction-tuned model",
        )


def read_templates(folder: Path, settings: Mapping[str, Any]) -> NamedTemplates:
    """chat_template.jinja and the files beside it, else tokenizer_config.json's text or list.

    Raises CheckpointError for anything else.
    """
    found: dict[str, str] = {}
    if (folder / FILE).exists():
        found[DEFAULT] = _text(folder / FILE)
    else:
        found |= _of_settings(settings.get("chat_template"))
    for path in additional_templates(folder):
        found[path.stem] = _text(path)
    return NamedTemplates(found)


def additional_templates(folder: Path) -> list[Path]:
    """The files of further templates, in the order of their names."""
    return sorted((folder / MORE).glob("*.jinja"))


def _of_settings(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    entries = [{"name": DEFAULT, "template": value}] if isinstance(value, str) else value
    found = {}
    for each in entries if isinstance(entries, list) else [None]:
        name, text = (each.get("name"), each.get("template")) if isinstance(each, dict) else (0, 0)
        if not isinstance(name, str) or not isinstance(text, str):
            raise CheckpointError(
                f"{SETTINGS}: chat_template is not a text, nor a list of texts with names",
                "download the file again",
            )
        found[name] = text
    return found


def _text(path: Path) -> str:
    try:
        return read_text(path, LONGEST_FILE)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read as text: {error}", "download the file again"
        ) from None
