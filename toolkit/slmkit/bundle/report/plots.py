"""Plots of a report as SVG, drawn by matplotlib in the colors of the page that holds them."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from slmkit.backend.targets import GB
from slmkit.bundle.report.details import Loss, Side
from slmkit.bundle.report.facts import ArtifactFacts, cost_text
from slmkit.parity.first_prompt import LayerError
from slmkit.parity.wording import decibels_text
from slmkit.planning.memory import MemoryPlan
from slmkit.system import plotting
from slmkit.system.ledger import StageCost

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, ROW = 7.2, 0.28  # inches
INK, GOOD, BAD = "#010203", "#010204", "#010205"  # stand for the page's colors, see ``_svg``
COLORS = {INK: "currentColor", GOOD: "var(--good)", BAD: "var(--bad)"}
SHADES = (1.0, 0.6, 0.3)  # of the parts of an app's memory
POINTS = 33  # of a line
BEST = 140.0  # dB: what is better is drawn there
MB = 10**6


def ladder(found: Sequence[ArtifactFacts]) -> str:
    """The errors of every artifact, mode by mode: SNR in dB, where more is better."""
    lines = [line for facts in found for line in facts.proved]
    figure, axes = _figure(len(lines))
    shown = [_drawn(line.metrics.snr_db) for line in lines]
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
    """Bytes that ship, and bytes that an app needs by part, of each artifact."""
    return _sizes({facts.name: facts for facts in found}, "Size and memory of every artifact")


def side_by_side(bundles: Mapping[str, Sequence[ArtifactFacts]]) -> str:
    """``sizes`` of several bundles, by their names."""
    found = {f"{name}: {facts.name}": facts for name in bundles for facts in bundles[name]}
    return _sizes(found, "Size and memory of every artifact of every bundle")


def _sizes(found: Mapping[str, ArtifactFacts], title: str) -> str:
    figure, axes = _figure(2 * len(found))
    for number, facts in enumerate(found.values()):
        above, below = 2.4 * number, 2.4 * number + 0.9
        bars = axes.barh(above, facts.size / MB, color=GOOD, height=0.75)
        axes.bar_label(bars, [f"{facts.size / MB:,.4g} MB"], padding=3, color=INK)
        end, needed = 0.0, facts.memory
        for part, shade in zip(needed.parts.values(), SHADES, strict=True):
            bars = axes.barh(below, part / MB, left=end, color=INK, height=0.75, alpha=shade)
            end += part / MB
        axes.bar_label(bars, [f"{needed.total / MB:,.4g} MB"], padding=3, color=INK)
    axes.set_yticks([2.4 * number + 0.45 for number in range(len(found))], list(found))
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlabel("MB: what ships (above); an app's weights, KV cache, working memory (below)")
    return _svg(figure, title)


def stages(costs: Sequence[StageCost]) -> str:
    """Each stage of the build from its start to its end; those of several threads overlap."""
    figure, axes = _figure(len(costs))
    bars = axes.barh(
        range(len(costs)),
        [each.seconds for each in costs],
        left=[each.start for each in costs],
        color=GOOD,
        height=0.6,
    )
    axes.bar_label(bars, [cost_text(each) for each in costs], padding=3, color=INK, fontsize=8)
    axes.set_yticks(range(len(costs)), [each.label for each in costs])
    axes.invert_yaxis()
    axes.margins(x=0.22)
    axes.set_xlabel("seconds since the build began; beside each bar its seconds and peak of memory")
    return _svg(figure, "Time and memory of every stage of the build")


def memory(planned: Mapping[str, MemoryPlan], limits: Mapping[str, int]) -> str:
    """Memory of an app while the context fills, and bytes that it may use at most, each by name."""
    figure, axes = _figure(9)
    for name, plan in planned.items():
        tokens = [plan.context_length * step // (POINTS - 1) for step in range(POINTS)]
        axes.plot(tokens, [plan.at(each) / GB for each in tokens], label=name)
    for name, limit in limits.items():
        axes.axhline(limit / GB, color=BAD, linestyle="--", label=name)
    axes.set_ylim(0)
    axes.set_xlabel("tokens in the context")
    axes.set_ylabel("GB")
    axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    return _svg(figure, "Memory against the length of the context")


def positions(sides: Sequence[Side], prompt_length: int, title: str) -> str:
    """SNR at each position of the first golden prompt and of what follows it, a line for each."""
    figure, axes = _figure(8)
    for each in sides:
        axes.plot([_drawn(value) for value in each.snr_db], label=each.name, linewidth=1.2)
    axes.axvline(prompt_length - 0.5, color=INK, linestyle=":", alpha=0.6)
    axes.set_ylim(0, BEST + 5)
    axes.set_xlabel("position in the text; behind the dotted line the answer")
    axes.set_ylabel("SNR in dB")
    _legend_above(axes)
    return _svg(figure, title)


def streams(errors: Sequence[LayerError]) -> str:
    """SNR of the residual stream after each layer, a line for each encoding."""
    figure, axes = _figure(7)
    for name in dict.fromkeys(each.encoding for each in errors):
        own = [each for each in errors if each.encoding == name]
        shown = [_drawn(each.snr_db) for each in own]
        axes.plot([each.layer for each in own], shown, label=f"{name} codes", marker=".")
    _by_layer(axes, "SNR in dB")
    return _svg(figure, "The residual stream on codes against float weights, layer by layer")


def losses(found: Sequence[Loss]) -> str:
    """Loss of the codes by layer, and of the same codes rounded to nearest (dashed)."""
    figure, axes = _figure(7)
    for number, name in enumerate(dict.fromkeys(each.encoding for each in found)):
        own = [each for each in found if each.encoding == name and each.of.isdigit()]
        layers, color = [int(each.of) for each in own], f"C{number}"
        chosen = [100 * each.loss for each in own]
        rounded = [100 * each.rounded_loss for each in own]
        axes.plot(layers, chosen, label=f"{name} codes", color=color, marker=".")
        label = f"{name} codes, rounded to nearest"
        axes.plot(layers, rounded, label=label, color=color, linestyle="--", marker=".")
    _by_layer(axes, "loss in %")
    return _svg(figure, "Loss of quantization, layer by layer")


def _by_layer(axes: Axes, of: str) -> None:
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("layer")
    axes.set_ylabel(of)
    _legend_above(axes)


def _legend_above(axes: Axes) -> None:
    axes.legend(
        frameon=False,
        labelcolor=INK,
        fontsize=8,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2,
    )


def _drawn(value: float) -> float:
    """A number of dB in the part of the scale that is drawn; NaN becomes 0."""
    return min(max(value, 0.0), BEST) if math.isfinite(value) else 0.0


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
