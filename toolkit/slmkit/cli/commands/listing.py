"""The command that lists the parts of a bundle: sbom."""

from __future__ import annotations

from pathlib import Path

import click

from slmkit.cli.options import FOLDER, command, print_tables
from slmkit.cli.places import check_file


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option(
    "--as",
    "form",
    type=click.Choice(["spdx", "cyclonedx"]),
    default="spdx",
    show_default=True,
    help="SPDX 2.3 or CycloneDX 1.6, as JSON.",
)
@click.option(
    "--model", type=FOLDER, help="The checkpoint's folder, whose model card says its license."
)
@click.option("--license", "model_license", help="The model's license, such as Apache-2.0.")
@click.option("--to", type=FOLDER, help="A new file [default: stdout].")
@click.option("--force", is_flag=True, help="Replace an older file.")
@command
def sbom(
    bundle: Path,
    form: str,
    model: Path | None,
    model_license: str | None,
    to: Path | None,
    force: bool,
) -> None:
    """List a bundle's parts and their licenses: the model, runtimes that an app links, tools that
    wrote it, every file that ships."""
    from slmkit import api

    if to is not None:
        check_file(to, force)
    text = api.Bundle(bundle).sbom(form, model=model, model_license=model_license)
    if to is None:
        return click.echo(text, nl=False)
    to.write_text(text, encoding="utf-8")
    print_tables(f"{to}: the parts of {bundle}")
