"""The table of an app project's checks."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from slmkit.app.check import FAILED, PASSED, AppReport

STYLES = {PASSED: "green", FAILED: "red"}


def checks_table(found: AppReport) -> Table:
    """A row for each check: what came of it, and why."""
    project = found.project
    about = f"{project.id} for {project.platform}: {project.artifact} of {project.model}"
    table = Table(title=about, title_justify="left")
    for column in ("check", "", "about"):
        table.add_column(column)
    for each in found.checks:
        style = STYLES.get(each.outcome, "yellow")
        table.add_row(Text(each.name), Text(each.outcome, style), Text(each.why))
    return table
