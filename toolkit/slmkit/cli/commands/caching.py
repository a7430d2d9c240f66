"""Commands about the cache: what it holds, and how large it may be."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slmkit.cli.options import FOLDER, command, json_option, print_json, print_tables

if TYPE_CHECKING:
    from slmkit.system.cache import Cache

HOUR = 3600  # seconds


@click.group("cache")
def caching() -> None:
    """Show and bound the cache of codes, artifacts and measurements."""


@caching.command("ls")
@click.option(
    "--cache", type=FOLDER, help="Its folder [default: $SLMKIT_CACHE or ~/.cache/slmkit]."
)
@json_option
@command
def ls(cache: Path | None, as_json: bool) -> None:
    """Say how many entries of each kind there are, how large, and when one was used last."""
    from rich.table import Table

    from slmkit.planning.memory import gigabytes

    opened = _opened(cache)
    rows = list(_rows(opened))
    total = sum(row["bytes"] for row in rows)
    if as_json:
        return print_json({"folder": str(opened.folder), "bytes": total, "kinds": rows})
    table = Table("kind", box=None, pad_edge=False)
    for title in ("entries", "size", "last used, hours ago"):
        table.add_column(title, justify="right")
    for row in rows:
        hours = f"{row['idle_seconds'] / HOUR:.1f}"
        table.add_row(row["kind"], str(row["entries"]), gigabytes(row["bytes"]), hours)
    print_tables(*([table, ""] if rows else []), f"{opened.folder}: {gigabytes(total)}")


@caching.command("prune")
@click.option("--limit", type=float, help="GB that stay, of what was used last [default: 20].")
@click.option(
    "--cache", type=FOLDER, help="Its folder [default: $SLMKIT_CACHE or ~/.cache/slmkit]."
)
@json_option
@command
def prune(limit: float | None, cache: Path | None, as_json: bool) -> None:
    """Remove what was not used for the longest time, and what killed builds left behind.

    While a build uses the cache, entries of the last day stay. The newest entry always does.
    """
    from slmkit.planning.memory import gigabytes
    from slmkit.system.cache import LIMIT, folder_size

    if limit is not None and not 0 <= limit < math.inf:
        raise click.UsageError(f"--limit {limit:g} is no amount: give GB, such as 5")
    opened = _opened(cache)
    before = sum(map(folder_size, opened.entries()))
    opened.prune(LIMIT if limit is None else int(limit * 10**9))
    after = sum(map(folder_size, opened.entries()))
    if as_json:
        return print_json({"folder": str(opened.folder), "freed": before - after, "bytes": after})
    print_tables(f"{opened.folder}: {gigabytes(before - after)} freed, {gigabytes(after)} stay")


def _opened(folder: Path | None) -> Cache:
    from slmkit.system.cache import Cache, default_folder

    return Cache(folder or default_folder())


def _rows(cache: Cache) -> Iterable[dict[str, Any]]:
    """Number, bytes and idle time of the entries of each kind."""
    from slmkit.system.cache import folder_size

    kinds: dict[str, list[Path]] = {}
    for path in cache.entries():
        kinds.setdefault(path.name.partition("-")[0], []).append(path)
    for kind, paths in sorted(kinds.items()):
        newest = max(path.stat().st_mtime for path in paths)
        yield {
            "kind": kind,
            "entries": len(paths),
            "bytes": sum(map(folder_size, paths)),
            "idle_seconds": max(0.0, round(time.time() - newest, 1)),
        }
