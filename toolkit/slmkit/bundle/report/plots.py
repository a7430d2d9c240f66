"""Plots of a report as SVG, drawn by matplotlib in the colors of the page that holds them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from slmkit.backend.targets import GB
from slmkit.bundle.manifest import BundledArtifact
from slmkit.bundle.report.facts import ArtifactFacts
from slmkit.parity.wording import decibels_text
from slmkit.system import plotting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, ROW = 7.2, 0.28  # inches
INK, GOOD, BAD = "#010203", "#010204", "#010205"  # stand for the page's colors, see ``_svg``
COLORS = {INK: "currentColor", GOOD: "var(--good)", BAD: "var(--bad)"}
POINTS = 33  # of a line


def ladder(found: Sequence[ArtifactFacts]) -> str:
    """The errors of every artifact, mode by mode: SNR in dB, where more is better."""
    lines = [line for facts in found for line in facts.proved]
    figure, axes = _figure(len(lines))
    shown = [min(max(line.metrics.snr_db, 0.0), 140.0) for line in lines]  # NaN becomes 0
    colors = [GOOD if line.passed else BAD for line in lines]
    bars = axes.barh(range(len(lines)), shown, color=colors, height=0.6)
    words = [decibels_text(line.metrics.snr_db) for line in lines]
    axes.bar_label(bars, words, padding=3, color=INK, fontsize=8)
    axes.set_yticks(range(len(lines)), [f"{each.artifact} {each.mode}" for each in lines])
    axes.invert_yaxis()
    axes.set_xlim(0, 155)
    axes.set_xlabel("SNR in dB: more is better")
    return _svg(figure, "The error of every artifact in every mode, in dB")


def sizes(found: Sequence[ArtifactFacts]) -> str:
    """Bytes that ship, and bytes that an app needs, of each artifact."""
    figure, axes = _figure(2 * len(found))
    for number, facts in enumerate(found):
        rows = [2.4 * number, 2.4 * number + 0.9]
        values = [facts.size / 10**6, facts.memory / 10**6]
        bars = axes.barh(rows, values, color=[GOOD, INK], height=0.75, alpha=0.85)
        axes.bar_label(bars, [f"{value:,.4g} MB" for value in values], padding=3, color=INK)
    axes.set_yticks([2.4 * number + 0.45 for number in range(len(found))], [f.name for f in found])
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlabel("MB: what ships (above), memory of an app with a full context (below)")
    return _svg(figure, "Size and memory of every artifact")


def memory(artifacts: Sequence[BundledArtifact], limit: int) -> str:
    """Memory of an app while the context fills, and the most that the target allows."""
    figure, axes = _figure(9)
    for artifact in artifacts:
        planned = artifact.memory
        tokens = [planned.context_length * step // (POINTS - 1) for step in range(POINTS)]
        axes.plot(tokens, [planned.at(each) / GB for each in tokens], label=artifact.name)
    axes.axhline(limit / GB, color=BAD, linestyle="--", label="the target's limit")
    axes.set_ylim(0)
    axes.set_xlabel("tokens in the context")
    axes.set_ylabel("GB")
    axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    return _svg(figure, "Memory against the length of the context")


def _figure(rows: int) -> tuple[Figure, Axes]:
    matplotlib = plotting.imported()
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "slmkit", "svg.fonttype": "none"}):
        figure = Figure(figsize=(WIDTH, 0.9 + ROW * max(rows, 3)), layout="constrained")
        axes = figure.subplots()
    figure.patch.set_alpha(0)
    axes.set_facecolor("none")
    axes.tick_params(colors=INK, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(9)
    return figure, axes


def _svg(figure: Figure, title: str) -> str:
    """The figure as an element of HTML: no fonts, dates or ids of its own time."""
    matplotlib = plotting.imported()
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": title, "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for color, name in COLORS.items():
        text = text.replace(color, name)
    head, _, rest = text.partition(">")
    label = f'{head} role="img" aria-label="{title}">'
    return label + rest
