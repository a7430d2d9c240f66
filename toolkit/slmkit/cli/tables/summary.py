"""The end of a build: a line for each artifact, and what to do next. Nothing is printed here."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from slmkit.app.template import templates
from slmkit.bundle.manifest import Manifest
from slmkit.bundle.report.facts import artifact_facts
from slmkit.bundle.roles import REPORT
from slmkit.checkpoint.folder import SAMPLE_NAME
from slmkit.cli.tables.parity import report_table
from slmkit.evaluation.gate import MEDIUM, SMALL
from slmkit.parity.wording import number_text
from slmkit.planning.memory import gigabytes

SAMPLE_QUESTION = "set a timer for 5 minutes"  # the sample model knows commands alone
COLORS = {SMALL: "green", MEDIUM: "yellow", "not measured": "default"}


def summary_table(manifest: Manifest) -> Table:
    """One row per artifact, within 80 columns: verdict, what ships, memory, the recipe's price."""
    table = report_table("")
    table.title = None
    table.add_column("artifact")
    for column in ("proof", "ships", "memory", "price of the recipe", "KL", "top-1"):
        table.add_column(column, justify="right")
    for each in artifact_facts(manifest):
        line = each.quality or each.codes
        table.add_row(
            each.name,
            "[green]passed[/]" if each.passed else "[red]FAILED[/]",
            gigabytes(each.size),
            gigabytes(each.memory.total),
            f"[{COLORS.get(each.price, 'red')}]{each.price}[/]",
            number_text(line.divergence.kl) if line else "",
            f"{line.divergence.top1:.1%}" if line else "",
        )
    return table


def warnings_note(manifest: Manifest) -> str:
    """All warnings and notices of a build, a line each; what several codes share is said once."""
    lines = manifest.quality.lines if manifest.quality else ()
    return escape(
        "\n".join(
            dict.fromkeys(
                [
                    *(
                        f"warning: {line.artifact} {line.mode}: {why}"
                        for line in lines
                        for why in line.warnings
                    ),
                    *(f"warning: {why}" for each in manifest.calibration for why in each.warnings),
                    *(f"notice: {each}" for each in manifest.notices),
                ]
            )
        )
    )


def next_steps(manifest: Manifest, bundle: Path) -> str:
    """Commands with this bundle's path, those that its backends and target have a part in."""
    place = shlex.quote(str(bundle))
    question = SAMPLE_QUESTION if manifest.model.name == SAMPLE_NAME else "hello"
    steps = [
        f"report    {bundle / REPORT}",
        f"ask it    slmkit run {place} --prompt {shlex.quote(question)}",
    ]
    ships = [artifact.name for artifact in manifest.artifacts if artifact.ships]
    if ships:
        steps.append(f"ship it   slmkit export {place} --artifact {ships[0]} --to app/model")
    if manifest.target in templates():
        said = f"--bundle {place} --platform {manifest.target} --out my-app"
        steps.append(f"an app    slmkit app new {said}")
    return "\n".join(["", *steps])
