"""Commands of app projects: new, check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slmkit.cli.options import FOLDER, command, json_option, print_json, print_tables

if TYPE_CHECKING:
    from slmkit.app.check import AppReport


@click.group()
def app() -> None:
    """A project of your own for Android Studio or Xcode, with a bundle's model inside."""


@app.command()
@click.option("--bundle", type=FOLDER, required=True, help="The bundle, as slmkit build wrote it.")
@click.option("--platform", required=True, help="Whose sample app: android or ios.")
@click.option("--out", type=FOLDER, required=True, help="A new folder for the project.")
@click.option("--id", "app_id", help="The app's id, such as com.example.app.")
@click.option("--artifact", help="Which artifact [default: the first that the app runs].")
@click.option("--raw", is_flag=True, help="Without the chat template, where apps cannot carry it.")
@click.option("--check", is_flag=True, help="Then run what slmkit app check runs.")
@click.option("--force", is_flag=True, help="Replace an older project.")
@json_option
@command
def new(bundle: Path, platform: str, out: Path, check: bool, as_json: bool, **asked: Any) -> None:
    """Write the sample app with an artifact, the chat form and golden cases of a bundle inside."""
    from slmkit import api

    project = api.new_app(bundle, platform, out, **asked)
    if check:
        return _show(api.check_app(out), as_json)
    if as_json:
        return print_json(project.model_dump(mode="json"))
    print_tables(f"{project.id}: {project.artifact} of {project.model}, in {out}: see README.md")


@app.command()
@click.argument("project", type=FOLDER)
@json_option
@command
def check(project: Path, as_json: bool) -> None:
    """Run every check of a project that this computer can. Exit code 6 if one fails.

    A check whose tools are not here is not executed; the table says which script fetches them.
    """
    from slmkit import api

    _show(api.check_app(project), as_json)


def _show(found: AppReport, as_json: bool) -> None:
    """The table, or JSON; raises AppError for a check that failed."""
    from slmkit.api import AppError
    from slmkit.cli.tables.app import checks_table

    if not as_json:
        print_tables(checks_table(found))
    try:
        found.check()
    except AppError as error:
        error.details = found.as_json()
        raise
    if as_json:
        print_json(found.as_json())
