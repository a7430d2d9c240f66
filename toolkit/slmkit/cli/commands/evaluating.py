"""The commands that measure quality: eval, sensitivity."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from slmkit.cli.options import (
    FOLDER,
    MODEL_HELP,
    adapter_option,
    cache_options,
    chosen_cache,
    command,
    json_option,
    print_json,
    print_tables,
    split_names,
)
from slmkit.errors import UsageError

ANSWERS, TEXT, TASKS = "answers", "text", "NAME"
ONLY = {  # options that not every task takes
    "chat": (TASKS,),
    "few_shot": (TASKS,),
    "limit": (ANSWERS, TASKS),
    "model": (ANSWERS, TEXT),
    "tasks_folder": (TASKS,),
    "allow_task_code": (TASKS,),
    "tokens": (TEXT,),
    "window": (TEXT,),
    "wrong": (ANSWERS,),
}


@click.command("eval")
@click.argument("path", type=FOLDER)
@click.option(
    "--task",
    default=ANSWERS,
    show_default=True,
    metavar="answers|text|NAME,...",
    help="Exact match of answers; perplexity, and divergence from the float model, on a text; or "
    "tasks of lm-evaluation-harness by name.",
)
@click.option(
    "--data",
    type=FOLDER,
    help="answers: JSONL of prompt and answer [default: home's held-out file]; text: plain text, "
    "or JSONL of messages [default: slmkit's held-out text]; NAME: folder of the tasks' data sets.",
)
@click.option("--artifact", help="Which artifact [default: the first].")
@click.option("--mode", help="How to run it [default: as it ships].")
@click.option("--recipe", help="Of a checkpoint: evaluate its codes under this recipe.")
@click.option(
    "--model",
    type=FOLDER,
    help="The float checkpoint to compare with [text: the path itself, where it is one].",
)
@adapter_option
@click.option("--limit", type=click.IntRange(1), help="answers, NAME: only the first N examples.")
@click.option("--wrong", type=click.IntRange(0), help="answers: show N wrong answers.")
@click.option(
    "--tokens", type=click.IntRange(2), help="text: how many, about, are read [default: 2048]."
)
@click.option(
    "--window",
    type=click.IntRange(2),
    help="text: tokens that are read from an empty cache, at most [default: 512].",
)
@click.option(
    "--tasks-folder", type=FOLDER, help="NAME: YAML files of tasks of your own, which NAME is of."
)
@click.option("--few-shot", type=click.IntRange(0), help="NAME: examples in each prompt.")
@click.option("--chat", is_flag=True, default=None, help="NAME: prompts in the chat template.")
@click.option(
    "--allow-task-code",
    is_flag=True,
    default=None,
    help="NAME: run Python code that files of --tasks-folder name.",
)
@cache_options
@json_option
@command
def evaluate(
    path: Path, task: str, cache: Path | None, no_cache: bool, as_json: bool, **asked: Any
) -> None:
    """Evaluate a bundle's artifact, or a checkpoint's reference: answers, text, or tasks."""
    from slmkit import api
    from slmkit.cli.console import shown_progress
    from slmkit.cli.tables.evaluation import shown
    from slmkit.workflows.evaluate import evaluation_to_json

    arguments = {name: value for name, value in asked.items() if value not in (None, ())}
    _check_options(task, arguments)
    wrong = arguments.pop("wrong", 0)
    arguments["cache"] = chosen_cache(cache, no_cache)
    with shown_progress() as progress:
        arguments["progress"] = progress
        if task == TEXT:
            found: Any = api.evaluate_text(path, **arguments)
        elif task == ANSWERS:
            found = api.evaluate_answers(path, **arguments)
        else:
            found = api.evaluate_tasks(path, split_names(task), **arguments)
    if as_json:
        return print_json(evaluation_to_json(found))
    print_tables(*shown(found))
    if task == ANSWERS:
        for prompt, expected, got in found.score.wrong[:wrong]:
            click.echo(f"{prompt}\n  expected {expected}\n  got      {got}")


def _check_options(task: str, given: Collection[str]) -> None:
    """Raise UsageError for an option that the task does not take."""
    kind = task if task in (ANSWERS, TEXT) else TASKS
    for name in given:
        takers = ONLY.get(name, (kind,))
        if kind not in takers:
            flag = "--" + name.replace("_", "-")
            tasks = " or ".join(f"--task {each}" for each in takers)
            raise UsageError(f"{flag} is for {tasks}", "leave it out, or choose another --task")


@click.command()
@click.option(
    "--model",
    type=FOLDER,
    help=MODEL_HELP,
)
@click.option("--recipe", default="int4", show_default=True, help="Recipe name or YAML file.")
@click.option(
    "--calibration",
    type=FOLDER,
    help="Text, or JSONL of messages, to measure on [default: the model's, or ours].",
)
@click.option(
    "--tokens",
    type=click.IntRange(2),
    default=512,
    show_default=True,
    help="How many of the text, about, are read for each linear.",
)
@click.option(
    "--plot",
    type=FOLDER,
    help="Write a picture too, .svg or .png.",
)
@cache_options
@json_option
@command
def sensitivity(
    model: Path | None,
    recipe: str,
    plot: Path | None,
    cache: Path | None,
    no_cache: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Measure what few bits cost in each linear by itself: what `bits_budget` spends bits on."""
    from slmkit import api
    from slmkit.checkpoint.folder import SAMPLE_MODEL
    from slmkit.cli.console import shown_progress
    from slmkit.cli.sensitivity_plot import check_plot, save_plot
    from slmkit.cli.tables.evaluation import sensitivity_shown

    if plot is not None:
        check_plot(plot)
    with shown_progress() as progress:
        found = api.sensitivity(
            model or SAMPLE_MODEL,
            recipe=recipe,
            cache=chosen_cache(cache, no_cache),
            progress=progress,
            **asked,
        )
    if plot is not None:
        save_plot(found, plot)
    if as_json:
        return print_json([asdict(each) for each in found])
    print_tables(*sensitivity_shown(found))
