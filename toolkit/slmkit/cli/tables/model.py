"""Tables of checkpoints, bundles, recipes, targets and packages, as rich renderables."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from slmkit.backend.artifact import ReportTable
from slmkit.backend.targets import Target
from slmkit.bundle.manifest import Manifest
from slmkit.cli.doctor import Row
from slmkit.cli.tables.estimate import imports_table
from slmkit.cli.tables.quality import price_words
from slmkit.cli.tables.wording import context, feed_forward, mixing
from slmkit.planning.memory import gigabytes
from slmkit.recipe.recipe import Recipe
from slmkit.workflows.inspect import CONTEXTS, Inspection


def bundle_table(manifest: Manifest) -> Group:
    """A bundle at a glance."""
    model = manifest.model
    facts = _facts(
        f"bundle {model.name}",
        {
            "target": manifest.target,
            "architecture": model.model_type,
            "parameters": f"{model.parameters:,}",
            "recipe": manifest.recipe.name,
            "recipe's price": price_words(manifest.quality),
            "context length": str(manifest.context_length),
            "built by": f"slmkit {manifest.slmkit}",
            **_notices(manifest.notices),
            "not executed": "; ".join(manifest.not_executed) or "nothing",
        },
    )
    table = Table(title="artifacts", title_justify="left")
    for column in ("artifact", "format", "size", "weights", "KV cache", "working", "needs"):
        table.add_column(column)
    for artifact in manifest.artifacts:
        size = sum(
            file.size for file in manifest.files if file.path.startswith(f"{artifact.folder}/")
        )
        memory = artifact.memory
        numbers = (size, memory.weights, memory.kv_cache, memory.working, memory.total)
        table.add_row(artifact.name, artifact.format, *map(gigabytes, numbers))
    return Group(facts, table, _context_table(manifest), *_report_tables(manifest))


def _report_tables(manifest: Manifest) -> list[Table]:
    """The backends' own tables."""
    return [
        _report_table(artifact.name, each)
        for artifact in manifest.artifacts
        for each in artifact.report.tables
    ]


def _report_table(artifact: str, report: ReportTable) -> Table:
    table = Table(title=f"{artifact} {report.title}", title_justify="left")
    for column in report.columns:
        table.add_column(column)
    for row in report.rows:
        table.add_row(*row)
    return table


def _context_table(manifest: Manifest) -> Table:
    """Memory while fewer tokens than the context length are in the cache."""
    whole = manifest.context_length
    lengths = [length for length in CONTEXTS if length < whole] + [whole]
    table = Table(title="memory by tokens in the cache", title_justify="left")
    table.add_column("artifact")
    for length in lengths:
        table.add_column(str(length), justify="right")
    for artifact in manifest.artifacts:
        sizes = (gigabytes(artifact.memory.at(length)) for length in lengths)
        table.add_row(artifact.name, *sizes)
    return table


def checkpoint_table(found: Inspection) -> Group:
    """A checkpoint at a glance: facts, then memory by recipe and context length."""
    spec = found.spec
    facts = _facts(
        f"checkpoint {found.name}",
        {
            "architecture": spec.model_type,
            "parameters": f"{found.parameters:,}",
            "stored": f"{gigabytes(found.stored_bytes)} in {found.tensors} tensors "
            f"({', '.join(found.dtypes)})",
            "layers": f"{spec.layers} of width {spec.width}{feed_forward(spec)}",
            **mixing(spec),
            "vocabulary": f"{spec.vocabulary} ({found.tokenizer_size} in the tokenizer), "
            f"{'tied' if spec.tied else 'untied'}",
            "trained context": context(spec),
            "chat template": "yes" if found.has_chat_template else "no",
            **_notices(found.notices),
        },
    )
    table = Table(title="memory by context length", title_justify="left")
    table.add_column("recipe")
    table.add_column("weights", justify="right")
    for planned in next(iter(found.plans.values()), []):
        table.add_column(str(planned.context_length), justify="right")
    for name, plans in found.plans.items():
        table.add_row(name, gigabytes(plans[0].weights), *(gigabytes(each.total) for each in plans))
    stored = [imports_table(found.codes)] if found.codes else []
    return Group(facts, *stored, table)


def recipes_table(recipes: Iterable[Recipe]) -> Table:
    """Shipped recipes, a line each."""
    table = Table("recipe", "summary", title="recipes", title_justify="left")
    for recipe in recipes:
        table.add_row(recipe.name, recipe.summary)
    return table


def targets_table(found: Iterable[tuple[Target, tuple[str, ...]]]) -> Table:
    """Targets with their artifacts and limits."""
    table = Table(title="targets", title_justify="left")
    for column in ("target", "for", "artifacts", "memory limit"):
        table.add_column(column)
    for target, artifacts in found:
        limit = gigabytes(target.memory_limit)
        table.add_row(target.name, target.about, ", ".join(artifacts), limit)
    return table


def doctor_table(rows: Iterable[Row], surroundings: dict[str, str]) -> Group:
    """Installed packages by extra, and the command for the missing ones."""
    table = Table(title="extras", title_justify="left")
    for column in ("extra", "for", "packages", "state"):
        table.add_column(column)
    for row in rows:
        packages = "\n".join(
            f"{name} {found}" if found else f"[red]{name} missing[/]"
            for name, found in row.packages.items()
        )
        done = "[green]complete[/]" if row.available else "[red]not for this machine[/]"
        table.add_row(row.extra, row.about, packages, "to install" if row.command else done)
    return Group(_facts("slmkit", surroundings), table)


def doctor_commands(rows: Iterable[Row]) -> list[str]:
    """The commands that install what is missing, a line each, to be copied whole."""
    return [row.command for row in rows if row.command]


def _notices(found: tuple[str, ...]) -> dict[str, str]:
    return {"notices": escape("\n".join(found))} if found else {}


def _facts(title: str, facts: dict[str, str]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for key, value in facts.items():
        table.add_row(key, value)
    return table
