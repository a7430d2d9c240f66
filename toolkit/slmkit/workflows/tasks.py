"""Evaluate an artifact, a recipe's codes or a checkpoint on tasks of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slmkit.harness.run import TaskReport, TaskRequest, run_tasks
from slmkit.recipe.recipe import Recipe
from slmkit.system.cache import CacheChoice, opened_cache
from slmkit.system.progress import Progress, Silent
from slmkit.workflows.evaluate import judged_session, paths_of, refuse_adapters

PathLike = str | Path


def evaluate_tasks(
    path: PathLike,
    tasks: str | Sequence[str],
    *,
    tasks_folder: PathLike | None = None,
    data: PathLike | None = None,
    artifact: str | None = None,
    mode: str | None = None,
    recipe: str | Recipe | None = None,
    limit: int | None = None,
    few_shot: int | None = None,
    chat: bool = False,
    allow_task_code: bool = False,
    adapters: Sequence[PathLike] = (),
    cache: CacheChoice = True,
    progress: Progress | None = None,
) -> TaskReport:
    """Scores of a bundle's artifact or a checkpoint on tasks of EleutherAI's
    lm-evaluation-harness. Nothing is fetched.

    ``tasks``: names of the harness's own tasks and groups, or of those in ``tasks_folder``.
    ``data``: the folder where their data sets are, each as a folder of the data set's name.
    ``recipe``: of a checkpoint, judge its codes under this recipe. ``limit``: only the first
    examples of each task. ``few_shot``: examples in each prompt, where the task does not insist on
    none. ``chat``: render prompts in the chat template. ``allow_task_code``: run Python functions
    that files of ``tasks_folder`` name; without it, such files are refused. ``adapters``: LoRA
    adapters to merge into a checkpoint.

    Raises MissingPackageError without the extra ``eval``, UsageError for a task that does not
    exist, SlmkitError for one that cannot run; BundleError, CheckpointError, RecipeError.
    """
    progress = progress or Silent()
    asked = TaskRequest(
        (tasks,) if isinstance(tasks, str) else tuple(tasks),
        folder=None if tasks_folder is None else Path(tasks_folder),
        data=None if data is None else Path(data),
        limit=limit,
        few_shot=few_shot,
        chat=chat,
        allow_code=allow_task_code,
    )
    with opened_cache(cache) as place:
        merged = paths_of(adapters)
        refuse_adapters(Path(path), merged)
        session = judged_session(Path(path), artifact, mode, recipe, place, progress, merged)
        return run_tasks(session, asked, progress)
