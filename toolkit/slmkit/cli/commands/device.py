"""Commands of other machines: device list, device setup; and parity on one of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from slmkit.cli.options import Function, command, json_option, print_json, print_tables, split_names
from slmkit.errors import ParityError, UsageError

if TYPE_CHECKING:
    from slmkit.devices.report import DeviceReport

LOCAL = "local"


@click.group()
def device() -> None:
    """Other machines on which `parity --on` and `bench --on` run artifacts."""


@device.command("list")
@json_option
@command
def device_list(as_json: bool) -> None:
    """List the places, what each can run, and what a place that is not ready lacks."""
    from dataclasses import asdict

    from slmkit.cli.tables.device import places_table
    from slmkit.devices.places.listing import listed

    found = listed()
    if as_json:
        return print_json([asdict(each) for each in found])
    print_tables(places_table(found))


@device.command()
@click.argument("place")
@command
def setup(place: str) -> None:
    """Make what a place needs here, such as qemu-arm64: a small arm64 Linux in the cache's folder.

    It is made of Debian's packages and PyPI's wheels, about 300 MB. Root is not needed.
    """
    from slmkit.devices.places.listing import set_up

    box = set_up(place)
    click.echo(f"{place} is ready: Python {box.python}, {', '.join(box.requirements)}")


def on_option(function: Function) -> Function:
    """--on WHERE; the function gets ``on``."""
    return click.option(
        "--on",
        default=LOCAL,
        show_default=True,
        metavar="WHERE",
        help="Where to run: see `slmkit device list`.",
    )(function)


def on_app_options(function: Function) -> Function:
    """--on WHERE and --app ID; the function gets ``on`` and ``app_id``."""
    return on_option(
        click.option(
            "--app",
            "app_id",
            metavar="ID",
            help="With --on: the app whose self-test runs what cannot be sent "
            "[default: dev.slmkit.sample].",
        )(function)
    )


def parity_on(
    bundle: Path,
    on: str,
    artifacts: str | None,
    app_id: str | None,
    junit: Path | None,
    as_json: bool,
) -> None:
    """Parity in another place: the table, the file in the bundle, and the verdict."""
    from slmkit import api
    from slmkit.cli.console import shown_progress
    from slmkit.devices.exporters import exported
    from slmkit.devices.join import PROVED
    from slmkit.devices.places.app import APP

    with shown_progress() as progress:
        found = api.prove_on(
            bundle, on, artifacts=split_names(artifacts), app=app_id or APP, progress=progress
        )
    if junit is not None:
        junit.write_text(exported(found, "junit"), encoding="utf-8")
    join_and_tell(bundle, found, PROVED, as_json)


def join_and_tell(bundle: Path, found: DeviceReport, kind: str, as_json: bool) -> None:
    """Put the report into the bundle and show it. Raises ParityError for wrong tokens."""
    from slmkit.cli.tables.device import device_shown
    from slmkit.devices.join import join_report

    kept = join_report(bundle, found, kind)
    error = wrong_tokens(found)
    if not as_json:
        print_tables(*device_shown(found), f"in the bundle: {kept}")
    elif error is None:
        print_json(found.model_dump(mode="json"))
    if error is not None:
        raise error


def wrong_tokens(found: DeviceReport) -> ParityError | None:
    """The error for a report with tokens that are not the reference's; None if all are."""
    if not found.wrong:
        return None
    said = "; ".join(
        f"{run.name}: {why}"
        for run in found.wrong
        for why in (run.tokens.failures if run.tokens else ())
    )
    error = ParityError(f"wrong tokens: {said}", "slmkit parity tells more")
    error.details = found.model_dump(mode="json")
    return error


def refuse_elsewhere(on: str, **options: object) -> None:
    """Options that belong to this computer alone. Raises UsageError."""
    for name, value in options.items():
        if value:
            raise UsageError(f"--{name} has no part in --on {on}", f"leave out --{name}")
