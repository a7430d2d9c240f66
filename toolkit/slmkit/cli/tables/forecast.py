"""The table of a forecast on phones: memory, speeds with error bars, and how good they are."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from slmkit.planning.forecast import Forecast, PhoneForecast
from slmkit.planning.memory import gigabytes
from slmkit.planning.speed_fit import COVERED, Accuracy, speed_text

FEW = 3  # public measurements of a maker's processors: fewer are told


def forecast_shown(found: Forecast) -> tuple[Table | Text, ...]:
    """A row for each artifact and phone, a line for each kind of speed; nothing without phones."""
    if not found.phones:
        return ()
    table = Table(
        title="forecast, not measured: speed in tokens/s with its error bar", title_justify="left"
    )
    for column in ("artifact", "phone", "needs", "of", "decode", "prefill"):
        table.add_column(column, justify="left" if column in ("artifact", "phone") else "right")
    last = ""
    for each in found.phones:
        name = f"{each.artifact} ({each.processor})"
        table.add_row("" if each.artifact == last else name, *_row(each))
        last = each.artifact
    return (table, *map(Text, _notes(found)))


def _row(each: PhoneForecast) -> tuple[str, ...]:
    needs = gigabytes(each.memory)
    return (
        f"{each.phone} ({each.chip})",
        needs if each.fits else f"[red]{needs}[/]",
        gigabytes(each.app_memory),
        speed_text(each.decode),
        speed_text(each.prefill),
    )


def _notes(found: Forecast) -> Iterator[str]:
    yield (
        "of: what one app may use of the phone's memory. Speeds are those of a short prompt on a "
        f"cool phone; the error bar covers {COVERED:.0%} of public measurements, each forecast "
        "from other sources alone"
    )
    for each in found.accuracy:
        yield f"{each.kind}, {each.processor}: {_quality(each)}"
    for artifact in dict.fromkeys(each.artifact for each in found.phones if each.outside):
        yield f"{artifact}: a token reads far less or more than any that was measured publicly"
    few = {(each.processor, each.maker, each.peers) for each in found.phones if each.peers < FEW}
    for processor, maker, peers in sorted(few):
        yield f"decode, {processor} of {maker}: {peers} of the measurements are of this maker"


def _quality(each: Accuracy) -> str:
    if each.by_row is None or each.by_source is None:
        return f"no forecast: {each.why_not}"
    about = f"{each.rows} measurements of {each.sources} sources"
    if not each.usable:
        return f"no forecast: {each.why_not} ({about})"
    return (
        f"median error {each.by_row:.0%} with each of {about} left out, "
        f"{each.by_source:.0%} with its whole source left out"
    )
