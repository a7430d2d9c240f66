"""Tables of other machines: places, and what was proved on one. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.table import Table
from rich.text import Text

from slmkit.devices.places.listing import READY, Listed
from slmkit.devices.report import DeviceReport, Run, tokens_text


def places_table(found: Iterable[Listed]) -> Table:
    """A row for each place."""
    table = Table(title="places of --on", title_justify="left")
    for column in ("where", "", "runs", "state"):
        table.add_column(column)
    for each in found:
        state = f"[green]{READY}[/]" if each.state == READY else each.state
        table.add_row(each.where, each.about, ", ".join(each.runs), state)
    return table


def device_shown(report: DeviceReport) -> tuple[Table | Text, ...]:
    """The tokens of every artifact on the device, and all that must be said about them."""
    device = report.device
    title = f"{report.model}, recipe {report.recipe}, on {device.where}: {device.model}"
    table = Table(title=title, title_justify="left")
    for column in ("artifact", "runtime", "tokens", ""):
        table.add_column(column)
    for run in report.runs:
        table.add_row(f"{run.name} {run.mode}", run.runtime, _tokens(run), _verdict(run))
    return (table, *(Text(line) for line in notes(report)))


def notes(report: DeviceReport) -> Iterator[str]:
    """Notices about tokens, what computed them, what did not run."""
    for run in report.runs:
        yield from run.notices
    if report.device.emulated:
        yield (
            f"computed by {report.device.emulated}: the kernels that such a processor gets, but "
            "no silicon, so times say nothing"
        )
    for said in report.not_executed:
        yield f"not executed: {said}"


def _tokens(run: Run) -> str:
    return "" if run.tokens is None else tokens_text(run.tokens)


def _verdict(run: Run) -> str:
    right = run.tokens is not None and run.tokens.passed
    return "[green]passed[/]" if right else "[red]failed[/]"
