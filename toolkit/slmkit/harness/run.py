"""Run tasks of lm-evaluation-harness on a loaded session: scores with their standard errors."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmkit.backend.registry import installed_versions, pip_command
from slmkit.errors import MissingPackageError, SlmkitError, UsageError
from slmkit.harness.offline import offline
from slmkit.harness.task_files import check_tasks
from slmkit.inference.session import Session
from slmkit.parity.metrics import Number
from slmkit.system.progress import Progress
from slmkit.system.scratch import scratch

PACKAGE = "lm-eval"
SEED = 1234  # of the choice of examples, as the harness's command line has it
RESAMPLES = 1000  # of bootstrapped standard errors; those of means are computed in closed form
RIGHT = ("acc", "acc_norm", "exact_match")  # metrics of a sample that are 1 if it is right, else 0
NO_FILTER = "none"  # the harness's name of it


@dataclass(frozen=True)
class TaskRequest:
    """Tasks, and how to run them.

    ``folder`` holds task files of one's own; without it, the tasks are the harness's. ``data``:
    the folder with the data sets. ``few_shot``: examples in each prompt, instead of the task's
    number. ``chat``: prompts in the chat template. ``allow_code``: task files may bring Python.
    """

    tasks: tuple[str, ...]
    folder: Path | None = None
    data: Path | None = None
    limit: int | None = None
    few_shot: int | None = None
    chat: bool = False
    allow_code: bool = False


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task or group of tasks."""

    task: str
    metric: str
    filter: str  # of the answers, before they are scored; "none" if there is none
    value: Number
    stderr: Number | None  # of the value; None where the harness has none
    samples: int
    few_shot: int | None  # None for a group whose tasks differ
    higher_is_better: bool | None

    @property
    def label(self) -> str:
        """Task, metric and filter, as in ``TaskReport.right``."""
        return label(self.task, self.metric, self.filter)


@dataclass(frozen=True)
class TaskReport:
    """The scores that the harness found."""

    about: str  # which artifact, on which runtime
    harness: str  # its version
    scores: tuple[TaskScore, ...]
    truncated: int  # requests that were longer than the context and lost their beginning
    right: Mapping[str, tuple[bool, ...]]  # by label, whether each sample is: for flips


def label(task: str, metric: str, chosen: str) -> str:
    """A metric of a task in one word group: "gsm8k: exact_match, strict-match"."""
    return f"{task}: {metric}" + ("" if chosen == NO_FILTER else f", {chosen}")


def run_tasks(session: Session, asked: TaskRequest, progress: Progress) -> TaskReport:
    """Run the tasks, with local data only.

    Raises MissingPackageError without lm-eval, UsageError for unknown tasks and for code that is
    not allowed, SlmkitError for what the harness refuses.
    """
    version = _version()
    if asked.folder is not None:
        check_tasks(asked.folder, asked.allow_code)
    if asked.chat and session.tokenizer.template is None:
        raise UsageError("the model has no chat template", "leave --chat out")
    places = [*filter(None, (asked.data, asked.folder)), Path.cwd()]
    with (
        scratch() as work,
        offline(places, work),
        _quiet(),
        _told(asked.tasks),
    ):
        from slmkit.harness.model import RunnerModel

        model = RunnerModel(
            session.runner, session.tokenizer, session.chunk, session.about, progress
        )
        found = _evaluate(model, _load(asked, progress), asked)
    return TaskReport(session.about, version, _scores(found), model.truncated, _right(found))


def _version() -> str:
    version = installed_versions([PACKAGE])[PACKAGE]
    if version is None:
        raise MissingPackageError(
            f"tasks of lm-evaluation-harness need {PACKAGE}", pip_command(["slmkit[eval]"])
        )
    return version


def _load(asked: TaskRequest, progress: Progress) -> Any:
    """The harness's tasks and groups, with their data."""
    from lm_eval.tasks import TaskManager

    progress.stage("read tasks", len(asked.tasks))
    own = str(asked.folder) if asked.folder else None
    manager = TaskManager(include_path=own, include_defaults=asked.folder is None)
    unknown = [name for name in asked.tasks if name not in manager.task_index]
    if unknown:
        raise UsageError(f"there is no task {unknown[0]!r}", _known(manager.all_tasks, asked))
    loaded = manager.load(list(asked.tasks))
    for task in loaded["tasks"].values():
        if asked.few_shot is not None and task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=asked.few_shot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEED)
    return loaded


def _known(tasks: Sequence[str], asked: TaskRequest) -> str:
    """A hint: all tasks of a folder, or of the harness's many those that look alike."""
    if asked.folder is not None:
        return f"tasks of {asked.folder}: {', '.join(tasks)}"
    import difflib

    close = difflib.get_close_matches(asked.tasks[0], tasks, n=5)
    return "tasks of your own are found with --tasks-folder; " + (
        f"the harness has {', '.join(close)}" if close else "the harness lists its own: lm_eval ls"
    )


def _evaluate(model: Any, loaded: Any, asked: TaskRequest) -> Mapping[str, Any]:
    from lm_eval.evaluator import evaluate

    found: Mapping[str, Any] = evaluate(
        lm=model,
        task_dict=loaded,
        limit=asked.limit,
        bootstrap_iters=RESAMPLES,
        log_samples=True,
        apply_chat_template=asked.chat,
        fewshot_as_multiturn=asked.chat,
        confirm_run_unsafe_code=False,
    )
    return found


def _scores(found: Mapping[str, Any]) -> tuple[TaskScore, ...]:
    """Rows of the harness's results; a metric's key is "NAME,FILTER"."""
    shots, better = found["n-shot"], found["higher_is_better"]
    scores = []
    for task, values in found["results"].items():
        for key, value in values.items():
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = values.get(f"{metric}_stderr,{chosen}")
            scores.append(
                TaskScore(
                    task,
                    metric,
                    chosen,
                    float(value),
                    float(stderr) if isinstance(stderr, int | float) else None,
                    int(values["sample_len"]),
                    shots.get(task),
                    better.get(task, {}).get(metric),
                )
            )
    return tuple(scores)


def _right(found: Mapping[str, Any]) -> dict[str, tuple[bool, ...]]:
    """By label, whether each sample is right, in the order of the data."""
    right: dict[str, list[bool]] = {}
    for task, samples in found.get("samples", {}).items():
        for each in sorted(samples, key=lambda each: int(each["doc_id"])):
            for metric in RIGHT:
                if metric in each:
                    name = label(task, metric, each["filter"])
                    right.setdefault(name, []).append(bool(each[metric] == 1))
    return {name: tuple(items) for name, items in right.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The harness's log and that of its libraries, from errors on."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "evaluate")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


@contextlib.contextmanager
def _told(tasks: Sequence[str]) -> Iterator[None]:
    """An error of the harness about a task or its data, as one sentence."""
    try:
        yield
    except (SlmkitError, MemoryError):
        raise
    except Exception as error:  # tasks are programs in YAML: any error may come out of one
        first = (str(error).strip().splitlines() or [""])[0]
        raise SlmkitError(
            f"lm-evaluation-harness cannot run {', '.join(tasks)}: {type(error).__name__}: {first}",
            "compare the task's file with its data: splits, columns, templates",
        ) from error
