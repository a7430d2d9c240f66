"""Tables for a person: what the commands found, as rich renderables. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Group
from rich.table import Table

from slmkit.backend.targets import PLATFORMS
from slmkit.bundle.manifest import Manifest
from slmkit.cli.doctor import Row
from slmkit.cli.wording import context, feed_forward, mixing
from slmkit.inference.evaluate import Score
from slmkit.parity.metrics import EXACT_DB, FLOAT_WEIGHTS, REFERENCE, ROUNDED, Line, Metrics
from slmkit.planning.memory import gigabytes
from slmkit.recipe.recipe import Recipe
from slmkit.workflows.inspect import CONTEXTS, Inspection
from slmkit.workflows.layerwise import Tap


def parity_table(lines: Iterable[Line], recorded: Iterable[Line] = ()) -> Table:
    """One row per comparison, within 80 columns; where each ran is said by ``parity_note``."""
    table = Table(
        title="parity",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("artifact")
    table.add_column("error")
    for column in ("SNR dB", "KL", "top-1", "greedy", ""):
        table.add_column(column, justify="right")
    for line in (*lines, *recorded):
        verdict = "[green]pass[/]" if not line.failures else "[red]FAIL[/]"
        table.add_row(
            f"{line.artifact} {line.mode}",
            _error(line),
            *_numbers(line.metrics, of_median=line.against == ROUNDED),
            verdict,
        )
    return table


def _error(line: Line) -> str:
    """Which error, and against which earlier mode if it is a step of a ladder."""
    mode = line.against if line.against not in (REFERENCE, FLOAT_WEIGHTS) else ""
    return f"{line.error}/{mode}" if mode else line.error


def _numbers(metrics: Metrics, of_median: bool) -> list[str]:
    snr = "exact" if metrics.snr_db >= EXACT_DB else f"{metrics.snr_db:.1f}"
    if of_median:
        snr = f"~{metrics.median_db:.1f}"
    greedy = f"{metrics.greedy}/{metrics.decoded}"
    return [snr, f"{metrics.kl:.2g}", f"{metrics.top1:.1%}", greedy]


def parity_note(lines: Iterable[Line], recorded: Iterable[Line] = ()) -> str:
    """How much was compared, and where each line was executed."""
    lines = list(lines)
    metrics = lines[0].metrics
    median = "; ~: the median position's" if any(line.against == ROUNDED for line in lines) else ""
    where: dict[str, list[str]] = {}
    for line in lines:
        name = f"{line.artifact} {line.mode}"
        if name not in where.setdefault(line.runtime, []):
            where[line.runtime].append(name)
    for line in recorded:
        where.setdefault("recorded at build", []).append(f"{line.artifact} {line.mode}")
    return "\n".join(
        [
            "",
            f"{metrics.positions} positions, {metrics.columns} logits each; "
            f"greedy: decoded tokens until they differ{median}",
            *(f"{', '.join(names)}: {runtime}" for runtime, names in where.items()),
        ]
    )


def trace_table(taps: Iterable[Tap]) -> Table:
    """One row per tap; the first bad one is where to look."""
    table = Table(title="artifact against reference on the same codes", title_justify="left")
    table.add_column("after")
    table.add_column("SNR dB", justify="right")
    table.add_column("")
    seen_bad = False
    for tap in taps:
        first = not tap.good and not seen_bad
        seen_bad |= not tap.good
        ratio = "exact" if tap.snr_db >= EXACT_DB else f"{tap.snr_db:.1f}"
        table.add_row(tap.name, ratio, "[red]first below the bound[/]" if first else "")
    return table


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
            "context length": str(manifest.context_length),
            "built by": f"slmkit {manifest.slmkit}",
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
    return Group(facts, table, _context_table(manifest), *_residency_tables(manifest))


def _residency_tables(manifest: Manifest) -> list[Table]:
    """What a backend predicts of an accelerator: the share that stays there, and what does not."""
    tables = []
    for artifact in manifest.artifacts:
        for name, report in artifact.facts.get("residency", {}).items():
            share = f"{report['predicted']:.1%} of {report['operations']} operations"
            table = Table(
                title=f"{artifact.name} {name}: {share} predicted to stay on the accelerator",
                title_justify="left",
            )
            for column in ("rule", "level", "by", "times", "reason"):
                table.add_column(column)
            for found in report["findings"]:
                if found["level"] != "note":
                    row = (found["rule"], found["level"], found["at"], str(found["count"]))
                    table.add_row(*row, found["reason"])
            tables.append(table)
    return tables


def residency_note(manifest: Manifest) -> str:
    """The same in a few lines for a build's report, and what backends say themselves; what several
    functions share is said once."""
    lines: dict[str, None] = {}
    for artifact in manifest.artifacts:
        lines |= dict.fromkeys(
            f"{artifact.name} {each}" for each in artifact.facts.get("report", ())
        )
        for name, report in artifact.facts.get("residency", {}).items():
            share = f"{report['predicted']:.1%} of {report['operations']} operations"
            plan = report.get("compute_plan")
            own = f"; Core ML's own plan: {plan}" if plan else ""
            lines[f"{artifact.name} {name}: {share} predicted to stay on the accelerator{own}"] = (
                None
            )
        for report in artifact.facts.get("residency", {}).values():
            for found in report["findings"]:
                if found["level"] != "note":
                    lines[
                        f"  {found['level']} {found['rule']} ({found['at']}): {found['reason']}"
                    ] = None
    return "\n".join(lines)


def _context_table(manifest: Manifest) -> Table:
    """Memory while fewer tokens than the context length are in the cache."""
    whole = manifest.context_length
    lengths = [length for length in CONTEXTS if length < whole] + [whole]
    table = Table(title="memory by tokens in the cache", title_justify="left")
    table.add_column("artifact")
    for length in lengths:
        table.add_column(str(length), justify="right")
    for artifact in manifest.artifacts:
        memory = artifact.memory
        fixed = memory.weights + memory.working
        sizes = (gigabytes(fixed + memory.kv_cache * length // whole) for length in lengths)
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
        },
    )
    table = Table(title="memory by context length", title_justify="left")
    table.add_column("recipe")
    table.add_column("weights", justify="right")
    for planned in next(iter(found.plans.values()), []):
        table.add_column(str(planned.context_length), justify="right")
    for name, plans in found.plans.items():
        table.add_row(name, gigabytes(plans[0].weights), *(gigabytes(each.total) for each in plans))
    return Group(facts, table)


def recipes_table(recipes: Iterable[Recipe]) -> Table:
    """Shipped recipes, a line each."""
    table = Table("recipe", "summary", title="recipes", title_justify="left")
    for recipe in recipes:
        table.add_row(recipe.name, recipe.summary)
    return table


def targets_table() -> Table:
    """Targets with their artifacts and limits."""
    table = Table(title="targets", title_justify="left")
    for column in ("target", "for", "artifacts", "memory limit"):
        table.add_column(column)
    for each in PLATFORMS.values():
        built = ", ".join(each.artifacts)
        table.add_row(each.name, each.about, built, gigabytes(each.memory_limit))
    return table


def doctor_table(rows: Iterable[Row], surroundings: dict[str, str]) -> Group:
    """What is installed, and the command for what is not."""
    table = Table(title="extras", title_justify="left")
    for column in ("extra", "for", "packages", "to install"):
        table.add_column(column)
    for row in rows:
        packages = "\n".join(
            f"{name} {found}" if found else f"[red]{name} missing[/]"
            for name, found in row.packages.items()
        )
        command = row.command.replace("[", "\\[") if row.command else "[green]complete[/]"
        table.add_row(row.extra, row.about, packages, command)
    return Group(_facts("slmkit", surroundings), table)


def score_table(score: Score, about: str) -> Table:
    """Exact match in all and by kind."""
    table = Table("examples", "right", "of", "exact match", title=about, title_justify="left")
    for kind, (right, total) in sorted(score.kinds.items()):
        table.add_row(kind, str(right), str(total), f"{right / total:.2%}")
    if len(score.kinds) > 1:
        share = score.right / score.total
        table.add_row("all", str(score.right), str(score.total), f"{share:.2%}")
    return table


def _facts(title: str, facts: dict[str, str]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for key, value in facts.items():
        table.add_row(key, value)
    return table
