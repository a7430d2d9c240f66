"""The command of adapters beside a bundle: adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slmkit.cli.options import (
    FOLDER,
    cache_options,
    chosen_cache,
    command,
    json_option,
    print_json,
    print_tables,
)


@click.command()
@click.option("--base", type=FOLDER, required=True, help="The bundle, which is only read.")
@click.option("--adapter", type=FOLDER, required=True, help="The LoRA adapter: a folder of PEFT.")
@click.option("--out", type=FOLDER, required=True, help="A new folder for the runtime's file.")
@click.option(
    "--model", type=FOLDER, help="The bundle's checkpoint [default: the sample model home]."
)
@click.option("--artifact", help="Which artifact [default: the first that takes adapters].")
@click.option("--force", is_flag=True, help="Replace an older adapter.")
@cache_options
@json_option
@command
def adapter(
    base: Path,
    adapter: Path,
    out: Path,
    cache: Path | None,
    no_cache: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Convert a LoRA adapter for a bundle's runtime, and prove base and adapter together.

    Some runtimes take adapters, where the bundle was built with places for them: an option of the
    artifact. To merge an adapter into the weights of any artifact, use --adapter of slmkit build.
    """
    from slmkit import api
    from slmkit.cli.console import shown_progress
    from slmkit.cli.tables.parity import parity_note, parity_table
    from slmkit.parity.metrics import to_json
    from slmkit.workflows.adapter import FailedAdapter

    asked["cache"] = chosen_cache(cache, no_cache)
    try:
        with shown_progress() as progress:
            found = api.add_adapter(base, adapter, out, progress=progress, **asked)
    except FailedAdapter as error:
        if as_json:
            error.details = {"comparisons": [to_json(each) for each in error.comparisons]}
        else:
            print_tables(parity_table(error.comparisons))
        raise
    if as_json:
        return print_json(found.model_dump(mode="json"))
    effect = f"without the adapter the answers would be {found.effect_db:.1f} dB from these"
    size = sum(each.size for each in found.files)
    print_tables(parity_table(found.parity), *filter(None, [parity_note(found.parity)]), effect)
    print_tables(f"adapter {out / found.file} ({size:,} bytes)")
