"""The table of held-out text, as rich renderables. Nothing is printed here."""

from __future__ import annotations

from rich.table import Table

from slmkit.bundle.manifest import Manifest
from slmkit.cli.tables.parity import price_text, report_table
from slmkit.evaluation.gate import Quality
from slmkit.parity.references import CODES
from slmkit.parity.wording import number_text


def quality_table(quality: Quality) -> Table:
    """Codes and artifacts beside the float model, a row each, within 80 columns."""
    table = report_table("held-out text, against the float model")
    table.add_column("artifact")
    for column in ("KL", "99.9 %", "top-1", "perplexity", "price", ""):
        table.add_column(column, justify="right")
    for line in quality.lines:
        found = line.divergence
        verdict = "[red]FAIL[/]" if line.failures else "[green]pass[/]"
        table.add_row(
            f"{line.artifact} {line.mode}",
            number_text(found.kl),
            number_text(found.kl_p999),
            f"{found.top1:.1%}",
            f"{found.perplexity:.4g}",
            price_text(line),
            "[yellow]warn[/]" if line.warnings else verdict,
        )
    return table


def price_words(quality: Quality | None) -> str:
    """The price of the codes, for one line: with KL and top-1, of the dearest encoding."""
    codes = [line for line in (quality.lines if quality else ()) if line.mode == CODES]
    if not codes:
        return "not measured: weights are random" if quality else "not measured"
    worst = max(codes, key=lambda line: line.divergence.kl)
    found = worst.divergence
    return f"{worst.price}: KL {number_text(found.kl)}, top-1 {found.top1:.1%} on held-out text"


def quality_note(quality: Quality) -> str:
    """How much was read, the recipe's price in words, and what was not measured."""
    read = f"{quality.positions} positions of {quality.tokens} tokens of held-out text"
    known = f"perplexity {quality.float_perplexity:.4g} of a vocabulary of {quality.vocabulary}"
    if not quality.trained:
        return (
            f"{read}: the float model has {known}, no better than chance. Its weights are taken "
            "for random: nothing was compared there, and codes keep the bound of random weights. "
            "(A trained model of other text may bring its own, a heldout.jsonl in its folder.)"
        )
    first = f"{read}; the float model has {known}"
    if 0 < quality.part_positions < quality.positions:
        part = f"{quality.part_positions} of them, on top of what their codes cost on all"
        first += f"\nartifacts: what they add on {part}"
    prices = [
        f"the recipe's price: {line.price} ({line.artifact} {line.mode})"
        for line in quality.lines
        if line.mode == CODES
    ]
    warnings = [
        f"warning: {line.artifact} {line.mode}: {why}"
        for line in quality.lines
        for why in line.warnings
    ]
    missing = [f"not measured: {why}" for why in quality.not_executed]
    return "\n".join([first, *prices, *warnings, *missing])


def calibration_notes(manifest: Manifest) -> tuple[str, ...]:
    """How the codes of each encoding were chosen on text, and where the text was too short."""
    return tuple(
        "\n".join([str(each), *(f"warning: {why}" for why in each.warnings)])
        for each in manifest.calibration
    )
