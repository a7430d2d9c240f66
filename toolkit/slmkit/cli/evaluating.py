"""The command that measures quality: eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slmkit.cli.options import (
    FOLDER,
    cache_options,
    chosen_cache,
    command,
    json_option,
    print_json,
    print_tables,
)
from slmkit.errors import UsageError

ONLY = {  # options of one task
    "answers": ("limit", "wrong"),
    "text": ("window", "tokens"),
}


@click.command("eval")
@click.argument("path", type=FOLDER)
@click.option(
    "--task",
    type=click.Choice(("answers", "text")),
    default="answers",
    show_default=True,
    help="Exact match of answers; or perplexity, and divergence from the float model, on a text.",
)
@click.option(
    "--data",
    type=FOLDER,
    help="answers: JSONL of prompt and answer [default: home's held-out file]; text: plain text, "
    "or JSONL of messages [default: slmkit's held-out text].",
)
@click.option("--artifact", help="Which artifact [default: the first].")
@click.option("--mode", help="How to run it [default: as it ships].")
@click.option("--recipe", help="Of a checkpoint: evaluate its codes under this recipe.")
@click.option(
    "--model",
    type=FOLDER,
    help="The float checkpoint to compare with [text: the path itself, where it is one].",
)
@click.option("--limit", type=click.IntRange(1), help="answers: only the first N examples.")
@click.option("--wrong", type=click.IntRange(0), help="answers: show N wrong answers.")
@click.option(
    "--tokens", type=click.IntRange(2), help="text: how many, about, are read [default: 2048]."
)
@click.option(
    "--window",
    type=click.IntRange(2),
    help="text: tokens that are read from an empty cache, at most [default: 512].",
)
@cache_options
@json_option
@command
def evaluate(
    path: Path, task: str, cache: Path | None, no_cache: bool, as_json: bool, **asked: Any
) -> None:
    """Evaluate a bundle's artifact, or a checkpoint's reference: answers, or text."""
    from slmkit import api
    from slmkit.cli.console import shown_progress
    from slmkit.cli.evaluation_tables import answers_shown, text_shown
    from slmkit.workflows.evaluate import evaluation_to_json

    arguments = {name: value for name, value in asked.items() if value is not None}
    for other, names in ONLY.items():
        alien = [f"--{name}" for name in names if name in arguments and task != other]
        if alien:
            raise UsageError(f"{', '.join(alien)} is for --task {other}", f"add --task {other}")
    wrong = arguments.pop("wrong", 0)
    arguments["cache"] = chosen_cache(cache, no_cache)
    with shown_progress() as progress:
        if task == "text":
            found: Any = api.evaluate_text(path, **arguments, progress=progress)
        else:
            found = api.evaluate_answers(path, **arguments, progress=progress)
    if as_json:
        return print_json(evaluation_to_json(found))
    print_tables(*(text_shown(found) if task == "text" else answers_shown(found)))
    if task == "answers":
        for prompt, expected, got in found.score.wrong[:wrong]:
            click.echo(f"{prompt}\n  expected {expected}\n  got      {got}")
