"""The table of recipes that fit phones, as a rich renderable. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from slmkit.planning.forecast import PhoneForecast
from slmkit.planning.memory import gigabytes
from slmkit.planning.speed_fit import speed_text
from slmkit.workflows.estimate import Estimate


def fitting_table(found: Sequence[Estimate]) -> Table:
    """A row for each recipe and phone: what an app needs and may use, which artifacts fit, and the
    fastest forecast of decoding."""
    first = found[0]
    table = Table(
        title=f"{first.name} for {first.target}, context {first.context_length}; speed in tokens/s "
        "is forecast, not measured",
        title_justify="left",
    )
    for column in ("recipe", "phone", "needs", "of", "fits", "decode"):
        table.add_column(column, justify="right" if column in ("needs", "of") else "left")
    for each in found:
        for number, row in enumerate(_rows(each)):
            table.add_row(each.recipe if number == 0 else "", *row)
    return table


def _rows(found: Estimate) -> Iterator[tuple[str, ...]]:
    refused = {each.artifact for each in found.artifacts if each.refused}
    phones: dict[str, list[PhoneForecast]] = {}
    for each in found.forecast.phones:
        phones.setdefault(each.phone, []).append(each)
    for phone, lines in phones.items():
        needs = max(each.memory for each in lines)
        good = [each for each in lines if each.fits and each.artifact not in refused]
        fastest = max(
            (each.decode for each in good if each.decode), key=lambda s: s.value, default=None
        )
        names = ", ".join(each.artifact for each in good) or "[red]none[/]"
        yield phone, gigabytes(needs), gigabytes(lines[0].app_memory), names, speed_text(fastest)
    if not phones:
        needs = max(each.memory.total for each in found.artifacts)
        names = ", ".join(each.artifact for each in found.artifacts if not each.refused)
        yield "-", gigabytes(needs), gigabytes(found.memory_limit), names or "[red]none[/]", "-"
