"""Commands that only look: inspect, plan, verify, recipes, targets, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slmkit.cli.options import (
    FOLDER,
    build_options,
    command,
    json_option,
    print_json,
    print_tables,
    request_of,
)


@click.command()
@click.argument("path", type=FOLDER)
@json_option
@command
def inspect(path: Path, as_json: bool) -> None:
    """A checkpoint's or a bundle's architecture, parameters, sizes, memory by context length."""
    from slmkit.bundle.manifest import MANIFEST, read_manifest
    from slmkit.cli import tables
    from slmkit.workflows import inspect as inspection

    if (path / MANIFEST).exists():
        manifest = read_manifest(path)
        values, table = manifest.model_dump(mode="json"), tables.bundle_table(manifest)
    else:
        found = inspection.inspect(path)
        values, table = found.as_json(), tables.checkpoint_table(found)
    if as_json:
        print_json(values)
    else:
        print_tables(table)


@click.command()
@build_options
@json_option
@command
def plan(as_json: bool, **asked: Any) -> None:
    """What a build would write and need, by config.json (a folder's, or the file itself) alone.

    Exit code 1 if the build would be refused.
    """
    from slmkit.cli.show_forecast import forecast_table
    from slmkit.workflows.estimate import forecast

    found = forecast(request_of(**asked))
    if as_json:
        print_json(found.as_json())
    else:
        print_tables(forecast_table(found))
    found.check()


@click.command()
@click.argument("bundle", type=FOLDER)
@command
def verify(bundle: Path) -> None:
    """Check every file of a bundle against the hashes of its manifest."""
    from slmkit.bundle import folder

    click.echo(f"{folder.verify(bundle)} files are what the manifest says")


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def recipes(context: click.Context, as_json: bool) -> None:
    """List the shipped recipes, or show one."""
    from slmkit.cli import tables
    from slmkit.recipe.recipe import load_recipe, shipped_names

    if context.invoked_subcommand is not None:
        return None
    shipped = [load_recipe(name) for name in shipped_names()]
    if as_json:
        return print_json([recipe.model_dump(mode="json", exclude_none=True) for recipe in shipped])
    print_tables(tables.recipes_table(shipped))


@recipes.command("show")
@click.argument("name")
@command
def recipes_show(name: str) -> None:
    """Print a recipe (a shipped name or a file), checked and with every default filled in."""
    import yaml

    from slmkit.recipe.recipe import load_recipe

    values = load_recipe(name).model_dump(mode="json", exclude_none=True)
    click.echo(yaml.safe_dump(values, sort_keys=False, width=100), nl=False)


@click.command()
@json_option
@command
def targets(as_json: bool) -> None:
    """List the targets: their artifacts and limits."""
    from dataclasses import asdict

    from slmkit.backend.targets import PLATFORMS
    from slmkit.cli import tables

    if as_json:
        return print_json([asdict(platform) for platform in PLATFORMS.values()])
    print_tables(tables.targets_table())


@click.command()
@json_option
@command
def doctor(as_json: bool) -> None:
    """Show what is installed, and the pip command for what is not."""
    from slmkit.cli import doctor as examination
    from slmkit.cli import tables

    rows, around = examination.examine(), examination.surroundings()
    if as_json:
        extras = [
            {"extra": row.extra, "packages": row.packages, "install": row.command} for row in rows
        ]
        return print_json({**around, "extras": extras})
    print_tables(tables.doctor_table(rows, around))
