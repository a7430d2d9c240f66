"""The command that puts two models side by side: compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slmkit.cli.options import (
    FILE,
    FOLDER,
    cache_options,
    chosen_cache,
    command,
    in_a_folder,
    json_option,
    print_json,
    print_tables,
    split_names,
)
from slmkit.errors import UsageError

OF_TASKS = ("tasks_folder", "data", "few_shot", "chat", "allow_task_code")  # options


@click.command()
@click.argument("first")
@click.argument("second")
@click.argument("more", nargs=-1)
@click.option(
    "--model",
    type=FOLDER,
    help="The float checkpoint: that of recipes, and the one to measure divergence from.",
)
@click.option("--artifact", help="Which artifact of both [default: the first].")
@click.option("--mode", help="How to run it [default: as it ships].")
@click.option(
    "--text",
    type=FOLDER,
    help="Plain text, or JSONL of messages [default: slmkit's held-out text].",
)
@click.option(
    "--tokens",
    type=click.IntRange(2),
    help="How many of the text, about, are read [default: 2048].",
)
@click.option(
    "--window",
    type=click.IntRange(2),
    help="Tokens that are read from an empty cache, at most [default: 512].",
)
@click.option("--answers", type=FOLDER, help="JSONL of prompt and answer: count exact matches too.")
@click.option("--task", help="Tasks of lm-evaluation-harness by name, separated by commas.")
@click.option("--tasks-folder", type=FOLDER, help="YAML files of tasks of your own.")
@click.option("--data", type=FOLDER, help="Folder of the tasks' data sets.")
@click.option("--few-shot", type=click.IntRange(0), help="Examples in each prompt of a task.")
@click.option("--chat", is_flag=True, help="Prompts of tasks in the chat template.")
@click.option(
    "--allow-task-code", is_flag=True, help="Run Python code that files of --tasks-folder name."
)
@click.option(
    "--limit", type=click.IntRange(1), help="Only the first N examples of answers and of each task."
)
@click.option(
    "--html",
    type=FILE,
    callback=in_a_folder,
    help="Write a page of what the manifests of two or more bundles say, and measure nothing.",
)
@cache_options
@json_option
@command
def compare(
    first: str,
    second: str,
    more: tuple[str, ...],
    html: Path | None,
    task: str | None,
    limit: int | None,
    cache: Path | None,
    no_cache: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Put two models side by side: bundles, checkpoints, or recipes of one --model.

    Size, memory, divergence on a text, flips with McNemar's test, tasks, and decode speed.
    More than two are for --html.
    """
    if html is not None:
        return _page((first, second, *more), html, asked, task, as_json)
    if more:
        raise UsageError(
            f"{2 + len(more)} models are named, and two are measured",
            "name two; --html FILE puts more bundles on a page, without measuring",
        )
    from slmkit import api
    from slmkit.cli.console import shown_progress
    from slmkit.cli.tables.comparison import comparison_shown
    from slmkit.workflows.evaluate import evaluation_to_json

    of_tasks = {name: asked.pop(name) for name in OF_TASKS}
    given = {name: value for name, value in asked.items() if value is not None}
    request = None
    if task is not None:
        request = api.TaskRequest(
            split_names(task),
            folder=of_tasks["tasks_folder"],
            data=of_tasks["data"],
            limit=limit,
            few_shot=of_tasks["few_shot"],
            chat=of_tasks["chat"],
            allow_code=of_tasks["allow_task_code"],
        )
    elif any(value not in (None, False) for value in of_tasks.values()):
        raise UsageError(
            f"{', '.join('--' + name.replace('_', '-') for name in OF_TASKS)} are for tasks",
            "name them with --task",
        )
    with shown_progress() as progress:
        found = api.compare(
            first,
            second,
            **given,
            tasks=request,
            limit=limit,
            cache=chosen_cache(cache, no_cache),
            progress=progress,
        )
    if as_json:
        return print_json(evaluation_to_json(found))
    print_tables(*comparison_shown(found))


def _page(
    bundles: tuple[str, ...], html: Path, asked: dict[str, Any], task: str | None, as_json: bool
) -> None:
    """Write the page of ``--html``; options of measurements are refused."""
    from slmkit import api

    given = {"task": task, **asked}
    used = [name for name, value in given.items() if value not in (None, False)]
    if used:
        named = ", ".join("--" + name.replace("_", "-") for name in used)
        raise UsageError(f"--html measures nothing, and {named} would", "leave it out")
    html.write_text(api.comparison_page(bundles), encoding="utf-8")
    if as_json:
        return print_json({"page": str(html), "bundles": list(bundles)})
    print_tables(f"{len(bundles)} bundles side by side, in {html}")
