"""Leave-one-out errors of the forecast of speed, row by row: python tests/benchmarks/forecast.py

With --markdown, the table of docs/pages/guides/speed.md.
"""

from __future__ import annotations

import sys

import click

from slmkit.backend.declaration import Processor
from slmkit.planning.public_speeds import public_speeds
from slmkit.planning.speed_fit import KINDS, accuracy, errors_of

PROCESSORS: tuple[Processor, ...] = ("cpu", "gpu", "npu")


def summary() -> list[str]:
    """A row for each kind of speed and processor, as Markdown."""
    figures = public_speeds()
    lines = [
        "| speed | processor | measurements | sources | each row left out | each source left out "
        "| error bar | forecast |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        for processor in PROCESSORS:
            good = accuracy(figures, kind, processor)
            lines.append(
                f"| {kind} | {processor} | {good.rows} | {good.sources} | {good.by_row:.0%} "
                f"| {good.by_source:.0%} | x {good.factor:.2f} | {'yes' if good.usable else 'no'} |"
            )
    return lines


def main() -> None:
    """Print the summary; without --markdown, every row before it."""
    figures = public_speeds()
    if "--markdown" not in sys.argv:
        for kind in KINDS:
            for processor in PROCESSORS:
                click.echo(f"{kind}, {processor}: published, from other rows, from other sources")
                for each in errors_of(figures, kind, processor):
                    row = each.measurement
                    click.echo(
                        f"  {each.speed:8.1f} {each.by_row:8.1f} ({each.row_error:4.0%}) "
                        f"{each.by_source:8.1f} ({each.source_error:4.0%})  "
                        f"{row.model}, {row.stack}, {row.chip} [{row.source}]"
                    )
    click.echo("\n".join(summary()))


if __name__ == "__main__":
    main()
