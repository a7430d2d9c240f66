"""Defaults of options: slmkit.toml in the current folder, or [tool.slmkit] of its pyproject.toml.

A table for each command, a key for each option, such as ``target`` of ``[build]``. A command's
words and the environment (``SLMKIT_BUILD_TARGET``) go before them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

OWN, PROJECT = "slmkit.toml", "pyproject.toml"
LARGEST = 1 << 20  # bytes of a file of settings


def defaults(group: click.Group, folder: Path) -> dict[str, Any]:
    """The settings of a folder's files, as click's ``default_map``. Raises click.UsageError."""
    for name in (OWN, PROJECT):
        path = folder / name
        if path.is_file() and path.stat().st_size <= LARGEST:
            found = _read(path)
            tables = found if name == OWN else found.get("tool", {}).get("slmkit", {})
            if tables:
                return {each: _checked(group, path, each, tables[each]) for each in tables}
    return {}


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        if path.name == PROJECT:  # which may be of another tool, and is none of ours
            return {}
        raise click.UsageError(f"{path.name} is not TOML: {error}") from None


def _checked(group: click.Group, path: Path, command: str, table: Any) -> dict[str, Any]:
    """The options of one command by parameter; each must exist."""
    known = group.commands.get(command)
    if known is None or not isinstance(table, dict):
        names = ", ".join(sorted(group.commands))
        raise click.UsageError(f"{path.name}: [{command}] is no command's table; commands: {names}")
    if isinstance(known, click.Group):
        return {each: _checked(known, path, each, table[each]) for each in table}
    options = {
        flag.lstrip("-"): option
        for option in known.params
        if isinstance(option, click.Option)
        for flag in (*option.opts, *option.secondary_opts)
    }
    found = {}
    for key, value in table.items():
        option = options.get(key.replace("_", "-"))
        if option is None or option.name is None:
            names = ", ".join(sorted(options))
            raise click.UsageError(f"{path.name}: {command} has no option {key}; options: {names}")
        found[option.name] = value
    return found
