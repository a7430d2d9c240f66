"""Tables of a build that is not there yet: files, and memory beside the limit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Group
from rich.table import Table
from rich.text import Text

from slmkit.backend.interface import WeightFile
from slmkit.planning.imports import ImportRow
from slmkit.planning.memory import gigabytes
from slmkit.workflows.estimate import ArtifactEstimate, Estimate


def estimate_table(found: Estimate) -> Group:
    """Files with weights by artifact, then what an app needs."""
    about = (
        f"{found.name} for {found.target}: recipe {found.recipe}, context {found.context_length}, "
        f"{found.parameters:,} parameters"
    )
    files = Table(title=f"{about}\nfiles with weights", title_justify="left")
    for column in ("artifact", "file", "size", "holds"):
        files.add_column(column, justify="right" if column == "size" else "left")
    for each in found.artifacts:
        _add_files(files, each)
    memory = Table(
        title=f"memory of an app, at most {gigabytes(found.memory_limit)}", title_justify="left"
    )
    for column in ("artifact", "weights", "KV cache", "working", "needs", ""):
        memory.add_column(column, justify="left" if column == "artifact" else "right")
    for each in found.artifacts:
        planned = each.memory
        numbers = (planned.weights, planned.kv_cache, planned.working, planned.total)
        verdict = "[red]refused[/]" if each.refused else "[green]fits[/]"
        memory.add_row(each.artifact, *map(gigabytes, numbers), verdict)
    stored = [imports_table(found.imports)] if found.imports else []
    return Group(files, memory, *stored, *(Text(f"notice: {each}") for each in found.notices))


def imports_table(rows: Sequence[ImportRow]) -> Table:
    """The formats of a checkpoint that brings codes, and what becomes of them."""
    artifacts = list(rows[0].artifacts)
    table = Table(title="codes that the checkpoint brings", title_justify="left")
    for column in ("format", "matrices", "parameters", "codes", *artifacts):
        table.add_column(column)
    for row in rows:
        codes = f"{row.scheme or 'none'}{', rounded' if row.rounded else ''}"
        facts = row.format, str(row.matrices), f"{row.parameters:,}", codes
        table.add_row(*facts, *row.artifacts.values())
    return table


def _add_files(table: Table, each: ArtifactEstimate) -> None:
    """Pieces of one thing in one row."""
    name = each.artifact
    rows = [list(pieces) for _, pieces in groupby(each.files, key=lambda file: file.about)]
    for pieces in rows:
        table.add_row(name, *_row(pieces))
        name = ""
    if rows[1:]:
        table.add_row("", "", gigabytes(each.size), "in all")
    if not rows:
        table.add_row(name, "", "", "[red]refused[/]")


def _row(pieces: Sequence[WeightFile]) -> tuple[str, str, str]:
    more = f" and {len(pieces) - 1} more" if pieces[1:] else ""
    size = gigabytes(sum(piece.size for piece in pieces))
    return pieces[0].name + more, size, pieces[0].about
