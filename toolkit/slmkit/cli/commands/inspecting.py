"""Commands that look, and copy out of a bundle: inspect, plan, export, recipes, targets, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slmkit.cli.options import (
    FOLDER,
    adapter_option,
    build_options,
    command,
    json_option,
    print_json,
    print_tables,
    request_arguments,
    split_names,
)


@click.command()
@click.argument("path", type=FOLDER)
@adapter_option
@json_option
@command
def inspect(path: Path, adapters: tuple[Path, ...], as_json: bool) -> None:
    """A checkpoint's or a bundle's architecture, parameters, sizes, memory by context length."""
    from slmkit import api
    from slmkit.bundle.manifest import MANIFEST
    from slmkit.cli.tables.model import bundle_table, checkpoint_table
    from slmkit.workflows.evaluate import refuse_adapters

    if (path / MANIFEST).exists():
        refuse_adapters(path, adapters)
        manifest = api.Bundle(path).manifest
        values, table = manifest.model_dump(mode="json"), bundle_table(manifest)
    else:
        found = api.inspect(path, adapters)
        values, table = found.as_json(), checkpoint_table(found)
    if as_json:
        print_json(values)
    else:
        print_tables(table)


@click.command()
@build_options
@click.option(
    "--phones",
    help="Forecast speed on these, separated by commas, or on all [default: a short list].",
)
@json_option
@command
def plan(phones: str | None, as_json: bool, **asked: Any) -> None:
    """Estimate a build, from config.json (a folder's, or the file itself) alone.

    Files, memory, and a forecast of both speeds on phones, with the error bar that such forecasts
    have on public measurements.

    Exit code 4 if the build would be refused.
    """
    from slmkit import api
    from slmkit.cli.tables.estimate import estimate_table
    from slmkit.cli.tables.forecast import forecast_shown

    names = None if phones is None else split_names(phones)
    found = api.estimate(**request_arguments(**asked), phones=names)
    if not as_json:
        print_tables(estimate_table(found), *forecast_shown(found.forecast))
    try:
        found.check()
    except api.RefusedError as error:
        error.details = found.as_json()
        raise
    if as_json:
        print_json(found.as_json())


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option("--artifact", help="Which artifact [default: the first].")
@click.option(
    "--device",
    "--soc",
    help="Only for these chips or GPUs: sm8650,sm8750 [default: all].",
)
@click.option("--to", type=FOLDER, required=True, help="A new folder.")
@click.option(
    "--as",
    "form",
    default="plain",
    show_default=True,
    help="plain, ai-pack (Play for On-device AI), background-assets (App Store), or gguf: the "
    "codes as a file for llama.cpp.",
)
@click.option("--model", type=FOLDER, help="For gguf: the checkpoint that the bundle was built of.")
@click.option("--force", is_flag=True, help="Replace an older export.")
@json_option
@command
def export(
    bundle: Path,
    artifact: str | None,
    device: str | None,
    to: Path,
    form: str,
    model: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Copy the files that an app loads of an artifact, and nothing else; or write its codes in
    another format."""
    from slmkit import api
    from slmkit.planning.memory import gigabytes

    if form == "gguf":
        return _export_gguf(bundle, artifact, to, model, force, as_json)
    devices = split_names(device)
    found = api.Bundle(bundle).export(to, artifact, devices=devices, force=force, form=form)
    if as_json:
        return print_json(found.model_dump(mode="json"))
    print_tables(f"{found.artifact}: {len(found.files)} files, {gigabytes(found.size)}, in {to}")


def _export_gguf(
    bundle: Path, artifact: str | None, to: Path, model: Path | None, force: bool, as_json: bool
) -> None:
    from slmkit import api
    from slmkit.checkpoint.folder import SAMPLE_MODEL
    from slmkit.cli.console import shown_progress
    from slmkit.planning.memory import gigabytes

    with shown_progress() as progress:
        found = api.Bundle(bundle).export_gguf(
            to, model or SAMPLE_MODEL, artifact=artifact, force=force, progress=progress
        )
    if as_json:
        return print_json(found.as_json())
    print_tables(f"{found.file}: the codes of {found.artifact}, {gigabytes(found.size)}, in {to}")
    if found.parity is not None:
        print_tables(
            f"{found.parity.runtime}: mean KL {found.parity.mean_kl:.2g} over "
            f"{found.parity.positions} positions, same best token in {found.parity.top1:.0%}"
        )
    print_tables(*(f"not executed: {each}" for each in found.not_executed))


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def recipes(context: click.Context, as_json: bool) -> None:
    """List the shipped recipes, or show one."""
    from slmkit.cli.tables.model import recipes_table
    from slmkit.recipe.recipe import load_recipe, shipped_names

    if context.invoked_subcommand is not None:
        return None
    shipped = [load_recipe(name) for name in shipped_names()]
    if as_json:
        return print_json([recipe.model_dump(mode="json", exclude_none=True) for recipe in shipped])
    print_tables(recipes_table(shipped))


@recipes.command("show")
@click.argument("name")
@command
def recipes_show(name: str) -> None:
    """Print a recipe (a shipped name or a file), checked and with every default filled in."""
    import yaml

    from slmkit import api

    values = api.Recipe.load(name).model_dump(mode="json", exclude_none=True)
    click.echo(yaml.safe_dump(values, sort_keys=False, width=100), nl=False)


@click.command()
@json_option
@command
def targets(as_json: bool) -> None:
    """List the targets: their artifacts and limits."""
    from dataclasses import asdict

    from slmkit import api
    from slmkit.cli.tables.model import targets_table

    found = api.targets().values()
    if as_json:
        return print_json(
            [{**asdict(target), "artifacts": list(artifacts)} for target, artifacts in found]
        )
    print_tables(targets_table(found))


@click.command()
@json_option
@command
def doctor(as_json: bool) -> None:
    """Show what is installed, and the pip command for what is not."""
    from slmkit.cli import doctor as examination
    from slmkit.cli.tables.model import doctor_commands, doctor_table

    rows, around = examination.examine(), examination.surroundings()
    if as_json:
        extras = [
            {
                "extra": row.extra,
                "packages": row.packages,
                "available": row.available,
                "install": row.command,
            }
            for row in rows
        ]
        return print_json({**around, "extras": extras})
    print_tables(doctor_table(rows, around))
    for line in doctor_commands(rows):
        click.echo(line)  # never cut or wrapped


LOOKING = (inspect, plan, export, recipes, targets, doctor)
