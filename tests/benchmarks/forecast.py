"""Leave-one-out errors of the forecast of speed, row by row: python tests/benchmarks/forecast.py

With --markdown, the two tables of docs/pages/guides/speed.md.
"""

from __future__ import annotations

import statistics
import sys

import click

from slmkit.backend.declaration import Processor
from slmkit.planning.public_speeds import public_speeds
from slmkit.planning.speed_fit import DECODE, KINDS, PREFILL, accuracy, errors_of

PROCESSORS: tuple[Processor, ...] = ("cpu", "gpu", "npu")


def summary() -> list[str]:
    """A row for each kind of speed and processor, as Markdown."""
    figures = public_speeds()
    lines = [
        "| speed | processor | measurements | sources | median error, each left out "
        "| median error, each source left out | error bar | forecast |",
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


def sources() -> list[str]:
    """A row for each source of measurements, as Markdown."""
    figures = public_speeds()
    lines = [
        "| source | processors | decode: rows, median error from the other sources "
        "| prefill: the same |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(row.source for row in figures.measurements):
        rows = [row for row in figures.measurements if row.source == name]
        used = [each for each in PROCESSORS if each in {row.processor for row in rows}]
        cells = []
        for kind in (DECODE, PREFILL):
            errors = [
                each.source_error
                for processor in used
                for each in errors_of(figures, kind, processor)
                if each.measurement.source == name
            ]
            cells.append(f"{len(errors)}, {statistics.median(errors):.0%}" if errors else "")
        source = figures.sources[name]
        lines.append(
            f"| [{source.title}]({source.url}) | {', '.join(used)} | {' | '.join(cells)} |"
        )
    return lines


def main() -> None:
    """Print the tables; without --markdown, every row before them."""
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
    click.echo("\n".join([*summary(), "", *sources()]))


if __name__ == "__main__":
    main()
