"""Names that a shell completes, as click asks for them while a line is typed."""

from __future__ import annotations

from collections.abc import Iterable

import click


def targets(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Targets that there are."""
    from slmkit.backend.registry import targets

    return _beginning(typed, targets())


def artifacts(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Artifacts of the installed backends; of several, separated by commas, the last one."""
    from slmkit.backend.registry import declarations

    before, comma, last = typed.rpartition(",")
    return [before + comma + name for name in _beginning(last, declarations())]


def recipes(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Recipes that slmkit ships."""
    from slmkit.recipe.recipe import shipped_names

    return _beginning(typed, shipped_names())


def _beginning(typed: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(typed))
