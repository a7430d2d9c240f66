"""Tables of parity reports and layers, as rich renderables. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.markup import escape
from rich.table import Table

from slmkit.backend.declaration import LOWERING, QUANTIZATION
from slmkit.bundle.manifest import Manifest
from slmkit.evaluation.gate import MEDIUM, SMALL, Quality, QualityLine
from slmkit.parity.metrics import FLOAT_WEIGHTS, REFERENCE, Comparison, Metrics
from slmkit.parity.prompts import PromptComparison
from slmkit.parity.wording import decibels_text, number_text
from slmkit.workflows.layerwise import Tap


def report_table(title: str) -> Table:
    """An empty table of a report, narrow: the box sets columns one space apart."""
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=0,
    )


def parity_table(
    found: Iterable[Comparison],
    recorded: Iterable[Comparison] = (),
    quality: Quality | None = None,
) -> Table:
    """One row per comparison, within 80 columns; where each ran is said by ``parity_note``.

    Codes on golden prompts have the recipe's price in place of a verdict, as ``quality`` found it.
    """
    table = report_table("parity")
    prices = {each.artifact: price_text(each) for each in (quality.lines if quality else ())}
    table.add_column("artifact")
    table.add_column("error")
    for column in ("SNR", "median", "KL", "top-1", "greedy", ""):
        table.add_column(column, justify="right")
    for line in (*found, *recorded):
        numbers = _numbers(line.metrics)
        verdict = "[green]pass[/]"
        if line.error == QUANTIZATION:
            numbers[-1] = ""  # greedy answers of other weights part soon, and it says little
            verdict = prices.get(line.artifact, verdict)
        verdict = "[red]FAIL[/]" if line.failures else verdict
        table.add_row(f"{line.artifact} {line.mode}", _error(line), *numbers, verdict)
    return table


def price_text(line: QualityLine) -> str:
    """The recipe's price, in the color of its verdict."""
    color = {SMALL: "green", MEDIUM: "yellow"}.get(line.price, "red")
    return f"[{color}]{line.price}[/]"


def _error(line: Comparison) -> str:
    """Which error, and against which earlier mode if it is a step of a ladder."""
    mode = line.against if line.against not in (REFERENCE, FLOAT_WEIGHTS) else ""
    return f"{line.error}/{mode}" if mode else line.error


def _numbers(metrics: Metrics) -> list[str]:
    """SNR in dB of all positions and of the median one, KL, top-1; how far greedy decoding agrees,
    where a golden text was decoded; NaN as "NaN"."""
    return [
        decibels_text(metrics.snr_db),
        decibels_text(metrics.median_db),
        number_text(metrics.kl),
        "100%" if metrics.top1 == 1 else f"{min(metrics.top1, 0.999):.1%}",
        f"{metrics.greedy}/{metrics.decoded}" if metrics.decoded > 1 else "",
    ]


def parity_note(found: Iterable[Comparison], recorded: Iterable[Comparison] = ()) -> str:
    """How much was compared, and where each line was executed."""
    lines = list(found)
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
            f"{_positions(lines)} positions, {lines[0].metrics.columns} logits each; SNR in dB, "
            "of all and of the median one; greedy: decoded tokens until they differ",
            *(f"{', '.join(names)}: {runtime}" for runtime, names in where.items()),
        ]
    )


def _positions(lines: Iterable[Comparison]) -> str:
    """The most positions of lowering errors, and of the others, which texts alone judge."""
    most = {True: 0, False: 0}
    for line in lines:
        lowering = line.error == LOWERING
        most[lowering] = max(most[lowering], line.metrics.positions)
    if not all(most.values()):
        return str(max(most.values()))
    return f"{most[True]} (lowering) and {most[False]} (texts: all others)"


def report_note(manifest: Manifest) -> str:
    """The backends' own findings, a line each; a line that continues another has no name."""
    return "\n".join(
        line if line.startswith(" ") else f"{artifact.name} {line}"
        for artifact in manifest.artifacts
        for line in artifact.report.lines
    )


def prompts_table(found: Iterable[PromptComparison]) -> Table:
    """One row per artifact: its runtime's prompts against the checkpoint's template."""
    table = report_table("prompts")
    for column in ("artifact", "runtime"):
        table.add_column(column)
    table.add_column("equal", justify="right")
    table.add_column("", justify="right")
    colors = {"pass": "green", "FAIL": "red", "notice": "yellow"}
    for each in found:
        color = colors.get(each.verdict, "dim")
        equal = f"{len(each.equal)}/{len(each.equal) + len(each.differences)}"
        shown = equal if each.executed else ""
        table.add_row(each.artifact, each.runtime, shown, f"[{color}]{each.verdict}[/]")
    return table


def prompts_note(found: Iterable[PromptComparison]) -> str:
    """Every prompt that differs, with both texts."""
    return escape("\n".join(notice for each in found for notice in each.notices))


def layers_table(taps: Iterable[Tap]) -> Table:
    """One row per tap; the first bad one is where to look."""
    table = Table(title="artifact against reference on the same codes", title_justify="left")
    table.add_column("after")
    table.add_column("SNR dB", justify="right")
    table.add_column("")
    seen_bad = False
    for tap in taps:
        first = not tap.good and not seen_bad
        seen_bad |= not tap.good
        remark = "[red]first below the bound[/]" if first else ""
        table.add_row(tap.name, decibels_text(tap.snr_db), remark)
    return table
