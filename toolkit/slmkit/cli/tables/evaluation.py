"""Tables of evaluations, as rich renderables. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from slmkit.evaluation.divergence import Divergence
from slmkit.evaluation.flips import Flips
from slmkit.harness.run import TaskReport
from slmkit.inference.evaluate import Score
from slmkit.parity.wording import number_text
from slmkit.workflows.evaluate import AnswerScore, TextScore
from slmkit.workflows.sensitivity import Sensitivity

DEAREST = 12  # linears in a table
BETTER = {True: "higher", False: "lower"}


def shown(found: TextScore | AnswerScore | TaskReport) -> tuple[Table | str, ...]:
    """The tables of an evaluation, and what must be known beside them."""
    if isinstance(found, TextScore):
        return text_shown(found)
    return answers_shown(found) if isinstance(found, AnswerScore) else tasks_shown(found)


def text_shown(found: TextScore) -> tuple[Table | str, ...]:
    """The measures on a text, a line each, and how much of it was read."""
    table = Table("", "", show_header=False)
    measured = found.divergence
    table.add_row("perplexity", f"{measured.perplexity:.4g}")
    note = f"{measured.positions} positions of {found.tokens} tokens in {found.windows} windows"
    if found.against is None:
        return (
            found.about,
            table,
            f"{note}; the float model itself: there is nothing to compare it with",
        )
    table.add_row("of the float model", f"{measured.float_perplexity:.4g}")
    table.add_row("KL, mean", number_text(measured.kl))
    table.add_row("KL, 99.9 %", number_text(measured.kl_p999))
    table.add_row("same best token", f"{measured.top1:.1%}")
    table.add_row("flips", flips_text(measured.flips))
    return found.about, table, f"{note}, against {found.against}; {_columns(measured)}"


def answers_shown(found: AnswerScore) -> tuple[Table | str, ...]:
    """The score; with the float model's, how many answers changed."""
    table = score_table(found.score, found.about)
    if found.float_score is None or found.flips is None:
        return (table,)
    right = f"{found.float_score.right}/{found.float_score.total}"
    return table, f"the float model has {right} right; {flips_text(found.flips)}"


def tasks_shown(found: TaskReport) -> tuple[Table | str, ...]:
    """A line for each metric of each task, and requests that were cut."""
    table = Table(title=found.about, title_justify="left")
    for name in ("task", "metric", "filter"):
        table.add_column(name)
    for name in ("value", "stderr", "examples", "few-shot", "better"):
        table.add_column(name, justify="right")
    for each in found.scores:
        better = "" if each.higher_is_better is None else BETTER[each.higher_is_better]
        table.add_row(
            each.task,
            each.metric,
            each.filter,
            f"{each.value:.4g}",
            "" if each.stderr is None else f"{each.stderr:.2g}",
            str(each.samples),
            "" if each.few_shot is None else str(each.few_shot),
            better,
        )
    note = f"lm-evaluation-harness {found.harness}, offline"
    if found.truncated:
        note += f"; {found.truncated} requests lost their beginning: they passed the context"
    return table, note


def score_table(score: Score, about: str) -> Table:
    """Exact match in all and by kind."""
    table = Table("examples", "right", "of", "exact match", title=about, title_justify="left")
    for kind, (right, total) in sorted(score.kinds.items()):
        table.add_row(kind, str(right), str(total), f"{right / total:.2%}")
    if len(score.kinds) > 1:
        share = score.right / score.total
        table.add_row("all", str(score.right), str(score.total), f"{share:.2%}")
    return table


def flips_text(flips: Flips) -> str:
    """Changed items in words, with the p-value of McNemar's test."""
    return (
        f"{flips.lost} right become wrong, {flips.won} wrong become right, of {flips.items} "
        f"({flips.share:.1%}; p = {number_text(flips.p_value)})"
    )


def _columns(measured: Divergence) -> str:
    return f"KL in nats over {measured.columns} logits of each position"


def sensitivity_shown(found: Sequence[Sensitivity]) -> tuple[Table | str, ...]:
    """The cost of each kind of linear, and of the dearest ones by themselves."""
    kinds: dict[str, list[Sensitivity]] = {}
    for each in found:
        kinds.setdefault(each.kind, []).append(each)
    by_kind = Table("linears", "", "million weights", "KL, summed", "KL per million")
    for kind, members in sorted(kinds.items(), key=lambda pair: -_dearness(pair[1])):
        size, cost = sum(each.parameters for each in members), sum(each.kl for each in members)
        by_kind.add_row(
            kind, str(len(members)), f"{size / 1e6:.4g}", f"{cost:.3g}", f"{_dearness(members):.3g}"
        )
    dearest = Table("the dearest by themselves", "bits", "KL", "KL per million")
    for each in sorted(found, key=lambda each: -each.kl)[:DEAREST]:
        dearest.add_row(each.name, str(each.bits), f"{each.kl:.3g}", f"{each.per_million:.3g}")
    return by_kind, dearest


def _dearness(members: Sequence[Sensitivity]) -> float:
    return sum(each.kl for each in members) / sum(each.parameters for each in members) * 1e6
