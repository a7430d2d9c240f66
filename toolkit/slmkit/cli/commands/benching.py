"""The command that measures a bundle: bench."""

from __future__ import annotations

from pathlib import Path

import click

from slmkit.cli.commands.device import LOCAL, on_option, wrong_tokens
from slmkit.cli.options import (
    FOLDER,
    command,
    json_option,
    print_json,
    print_tables,
    split_names,
)
from slmkit.errors import UsageError


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option("--artifacts", help="Only these artifacts, separated by commas.")
@click.option(
    "--lengths",
    help="Tokens of the prompts, separated by commas [default: 32,128,512 if they fit].",
)
@click.option(
    "--tokens",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Tokens that are decoded after each prompt.",
)
@click.option(
    "--repeats",
    type=click.IntRange(3),
    default=5,
    show_default=True,
    help="Processes of each model, which take turns.",
)
@click.option(
    "--threads", type=click.IntRange(1), help="Threads of each runtime [default: all cores]."
)
@click.option(
    "--against",
    type=FOLDER,
    multiple=True,
    help="A peer's model, measured beside: a .gguf file, or a folder of onnxruntime-genai.",
)
@on_option
@click.option(
    "--as",
    "form",
    type=click.Choice(["llama-bench", "executorch", "junit", "markdown"]),
    help="Write the report in a form that others read, to --to.",
)
@click.option("--to", type=FOLDER, help="A new file for --as [default: stdout].")
@click.option("--force", is_flag=True, help="Replace an older file.")
@json_option
@command
def bench(
    bundle: Path,
    artifacts: str | None,
    lengths: str | None,
    tokens: int,
    repeats: int,
    threads: int | None,
    against: tuple[Path, ...],
    on: str,
    form: str | None,
    to: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure a bundle: both speeds by prompt length, load time, first token, memory, parity.

    Cold and warm apart, median and spread. An artifact whose tokens are not the reference's is
    marked and never ranked: exit code 3. With --on they run on another machine, and the report of
    that device joins the bundle: proof/devices/.
    """
    from slmkit import api
    from slmkit.cli.console import shown_progress
    from slmkit.cli.tables.bench import bench_shown
    from slmkit.devices.exporters import exported
    from slmkit.devices.join import MEASURED, join_report

    _check_place(to, form, force)
    if form is not None and to is None and as_json:
        raise UsageError("--json and --as both want stdout", "give a file with --to")
    with shown_progress() as progress:
        found = api.benchmark(
            bundle,
            artifacts=split_names(artifacts),
            lengths=_numbers(lengths),
            tokens=tokens,
            repeats=repeats,
            threads=threads,
            against=against,
            on=on,
            progress=progress,
        )
    if form is not None and to is not None:
        to.write_text(exported(found, form), encoding="utf-8")
    if on != LOCAL:
        join_report(bundle, found, MEASURED)
    error = wrong_tokens(found)
    if form is not None and to is None:
        click.echo(exported(found, form), nl=False)
    elif not as_json:
        print_tables(*bench_shown(found))
    elif error is None:
        print_json(found.model_dump(mode="json"))
    if error is not None:
        raise error


def _check_place(to: Path | None, form: str | None, force: bool) -> None:
    """Refuse a place for the report before anything is measured."""
    if to is None:
        return
    if form is None:
        raise UsageError("--to needs a form", "name it with --as")
    if to.is_dir() or not to.parent.is_dir():
        raise UsageError(f"{to} is no place for a file", "give a file in a folder that exists")
    if to.exists() and not force:
        raise UsageError(f"{to} exists", "use --force to replace it")


def _numbers(text: str | None) -> tuple[int, ...]:
    """Numbers separated by commas."""
    try:
        return tuple(int(each) for each in split_names(text))
    except ValueError:
        raise UsageError(f"--lengths {text}: expected numbers", "such as 32,128") from None
