"""The table of two models side by side, as a rich renderable. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from slmkit.cli.tables.evaluation import flips_text
from slmkit.harness.run import TaskScore
from slmkit.parity.wording import number_text
from slmkit.planning.memory import gigabytes
from slmkit.workflows.compare import Compared, Measured

NOTHING = "-"


def comparison_shown(found: Compared) -> tuple[Table | str, ...]:
    """A row for each measure, a column for each model; then the flips, and where each ran."""
    names = [Path(each.name).name for each in (found.first, found.second)]
    if names[0] == names[1]:
        names = [found.first.name, found.second.name]
    table = Table("", *names)
    for row in (*_rows(found.first, found.second), *_task_rows(found)):
        table.add_row(*row)
    measured = found.first.divergence
    return (
        table,
        *_flips(found),
        "",
        f"text: {measured.positions} positions of {found.tokens} tokens, against {found.against}; "
        f"KL in nats over {measured.columns} logits of each position",
        *(
            f"{name}: {each.about}"
            for name, each in zip(names, (found.first, found.second), strict=True)
        ),
    )


def _rows(*sides: Measured) -> Iterator[tuple[str, ...]]:
    """Measures that both models have."""
    texts = [each.divergence for each in sides]
    yield "on disk", *(gigabytes(each.size) for each in sides)
    yield "memory of an app", *(_or_nothing(each.memory, gigabytes) for each in sides)
    yield "decode, tokens/s", *(_or_nothing(each.decode, "{:.1f}".format) for each in sides)
    yield "perplexity", *(f"{each.perplexity:.4g}" for each in texts)
    yield "KL, mean", *(number_text(each.kl) for each in texts)
    yield "KL, 99.9 %", *(number_text(each.kl_p999) for each in texts)
    yield "same best token", *(f"{each.top1:.1%}" for each in texts)
    scores = [each.answers for each in sides if each.answers is not None]
    if scores:
        yield "answers, exact match", *(f"{each.right}/{each.total}" for each in scores)


def _task_rows(found: Compared) -> Iterator[tuple[str, ...]]:
    """A row for each metric of lm-evaluation-harness."""
    reports = [each.tasks for each in (found.first, found.second) if each.tasks is not None]
    for pair in zip(*(each.scores for each in reports), strict=True):
        yield pair[0].label, *map(_score_text, pair)


def _score_text(score: TaskScore) -> str:
    stderr = "" if score.stderr is None else f" ± {score.stderr:.2g}"
    return f"{score.value:.4g}{stderr}"


def _flips(found: Compared) -> Iterator[str]:
    """Lines about items that changed from the first model to the second."""
    yield f"next tokens: {flips_text(found.flips)}"
    if found.answer_flips is not None:
        yield f"answers: {flips_text(found.answer_flips)}"
    for label, changed in found.task_flips.items():
        yield f"{label}: {flips_text(changed)}"


def _or_nothing(value: float | None, text: Callable[[Any], str]) -> str:
    return NOTHING if value is None else text(value)
